//! An event in binary mode, read where its headers lie.

use crate::attribute::{check_name, check_value};
use crate::event::{MAX_ATTRIBUTES_SIZE, MAX_TYPE_SIZE};
use crate::{Event, media_type};

/// Attributes that are read in place: an event with more of them is rare.
const MAX_IN_PLACE: usize = 24;

/// A valid event in binary mode whose every attribute stands in its header as this crate would write it, so that the
/// headers can be passed on as they are. Nothing of it is copied.
///
/// It is a short cut and no second set of rules: of an event that it takes, [`crate::Builder`] makes one that is written
/// with the same headers. What it does not take may still be an event.
#[derive(Clone, Debug)]
pub struct EventInPlace<'a> {
    attributes: [(&'a str, &'a str); MAX_IN_PLACE],
    count: usize,
    size: usize,
    content_type: Option<&'a str>,
}

/// A header of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventHeader<'a> {
    /// An attribute: its name without the prefix, and its value as it is encoded.
    Attribute(&'a str, &'a str),
    /// The value of `content-type`.
    ContentType(&'a str),
}

impl<'a> EventInPlace<'a> {
    /// Reads an event's headers, in one pass.
    pub fn new(headers: impl IntoIterator<Item = EventHeader<'a>>) -> Option<Self> {
        let mut event = Self { attributes: [("", ""); MAX_IN_PLACE], count: 0, size: 0, content_type: None };
        headers.into_iter().try_for_each(|header| match header {
            EventHeader::Attribute(name, value) => event.add(name, value),
            EventHeader::ContentType(value) => event.add_content_type(value),
        })?;
        let is_whole = ["specversion", "id", "source", "type"].iter().all(|name| event.attribute(name).is_some());
        let fits = event.size <= MAX_ATTRIBUTES_SIZE && event.event_type().len() <= MAX_TYPE_SIZE;
        (is_whole && fits).then_some(event)
    }

    fn add(&mut self, name: &'a str, value: &'a str) -> Option<()> {
        // What has none of these is the same encoded and decoded.
        let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%'));
        if !is_plain || name == "datacontenttype" || self.attribute(name).is_some() {
            return None;
        }
        check_name(name).ok()?;
        check_value(name, value).ok()?;
        *self.attributes.get_mut(self.count)? = (name, value);
        self.count += 1;
        self.count_size(name, value);
        Some(())
    }

    fn add_content_type(&mut self, value: &'a str) -> Option<()> {
        let is_structured = media_type::essence(value).eq_ignore_ascii_case(media_type::STRUCTURED);
        if is_structured || self.content_type.replace(value).is_some() {
            return None;
        }
        self.count_size("datacontenttype", value);
        check_value("datacontenttype", value).ok()
    }

    /// As much as the line of a header takes.
    fn count_size(&mut self, name: &str, value: &str) {
        self.size += "ce-: \r\n".len() + name.len() + value.len();
    }

    /// All context attributes but `datacontenttype`, in the order of the headers.
    pub fn attributes(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.attributes.iter().take(self.count).copied()
    }

    /// One context attribute, `datacontenttype` included.
    pub fn attribute(&self, name: &str) -> Option<&'a str> {
        if name == "datacontenttype" {
            return self.content_type;
        }
        self.attributes().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// `datacontenttype`: the media type of the data.
    pub fn data_content_type(&self) -> Option<&'a str> {
        self.content_type
    }
}

/// What can be asked of an event, however it is kept.
pub trait Attributes {
    /// One context attribute, `datacontenttype` included.
    fn attribute(&self, name: &str) -> Option<&str>;

    /// `id`: unique together with `source`.
    fn id(&self) -> &str {
        self.attribute("id").unwrap_or_default()
    }

    /// `source`: a URI-reference.
    fn source(&self) -> &str {
        self.attribute("source").unwrap_or_default()
    }

    /// `type`.
    fn event_type(&self) -> &str {
        self.attribute("type").unwrap_or_default()
    }
}

impl Attributes for Event {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attribute(name)
    }
}

impl Attributes for EventInPlace<'_> {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attribute(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Builder, header_value};

    const REQUIRED: [(&str, &str); 4] = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t.u")];

    fn read<'a>(more: &[(&'a str, &'a str)], content_type: Option<&'a str>) -> Option<EventInPlace<'a>> {
        let attributes = REQUIRED.iter().chain(more).map(|(name, value)| EventHeader::Attribute(name, value));
        EventInPlace::new(attributes.chain(content_type.map(EventHeader::ContentType)))
    }

    #[test]
    fn an_ordinary_event_is_read_in_place() {
        let event = read(&[("time", "2026-01-31T17:31:00Z"), ("partitionkey", "a-b")], Some("text/plain")).unwrap();
        assert_eq!((event.id(), event.source(), event.event_type()), ("1", "/s", "t.u"));
        assert_eq!(event.attribute("partitionkey"), Some("a-b"));
        assert_eq!((event.data_content_type(), event.attributes().count()), (Some("text/plain"), 6));
    }

    #[test]
    fn what_is_encoded_invalid_or_much_is_not() {
        for more in [
            ("x", "a%20b"),
            ("x", "\"quoted\""),
            ("x", "größe"),
            ("x", "a b"),
            ("X", "a"),
            ("x-y", "a"),
            ("data", "a"),
            ("id", "2"),
            ("time", "today"),
            ("datacontenttype", "text/plain"),
        ] {
            assert!(read(&[more], None).is_none(), "{more:?}");
        }
        assert!(read(&[], Some("no media type")).is_none());
        let twice = REQUIRED.map(|(name, value)| EventHeader::Attribute(name, value));
        assert!(EventInPlace::new(twice.into_iter().chain([EventHeader::ContentType("a/b"); 2])).is_none());
        assert!(read(&[], Some("application/cloudevents+json; charset=utf-8")).is_none());
        for missing in 0..REQUIRED.len() {
            let others = REQUIRED.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, one)| *one);
            assert!(EventInPlace::new(others.map(|(name, value)| EventHeader::Attribute(name, value))).is_none());
        }
        let long = "v".repeat(MAX_ATTRIBUTES_SIZE);
        assert!(read(&[("x", &long)], None).is_none());
        let names = (0..MAX_IN_PLACE).map(|number| format!("x{number}")).collect::<Vec<_>>();
        let many = names.iter().map(|name| (&**name, "")).collect::<Vec<_>>();
        assert!(read(&many, None).is_none() && read(&many[..MAX_IN_PLACE - REQUIRED.len()], None).is_some());
    }

    fn built(attributes: &[(String, String)], content_type: Option<&str>) -> Option<Event> {
        let decode = |value: &str| header_value::decode(value.as_bytes());
        let builder = attributes.iter().try_fold(Builder::default(), |builder, (name, value)| {
            Some(builder.attribute(name.clone(), decode(value)?))
        })?;
        let builder =
            content_type.into_iter().fold(builder, |builder, value| builder.attribute("datacontenttype", value));
        builder.build().ok()
    }

    proptest! {
        /// What is taken in place is what is built, attribute by attribute, and would be written as it stands.
        #[test]
        fn it_is_no_second_set_of_rules(
            more in proptest::collection::vec(("[a-c]|time|subject|dataschema|id|[A-Z-]", "[ -~é]{0,3}|[a-z/:]{0,9}|2026-01-31T17:31:0[0-9]Z"), 0..5),
            (source, kind, version) in ("[a-z/:%<]{0,4}", "[a-z.]{0,4}", "1\\.0|1\\.1"),
            content_type in proptest::option::of("text/[a-z]{1,3}|[a-z ]{0,4}|application/cloudevents\\+json"),
        ) {
            let required = [("specversion", version), ("id", "1".to_owned()), ("source", source), ("type", kind)];
            let mut all = required.map(|(name, value)| (name.to_owned(), value)).to_vec();
            all.extend(more);
            let attributes = all.iter().map(|(name, value)| EventHeader::Attribute(name, value));
            let in_place = EventInPlace::new(attributes.chain(content_type.as_deref().map(EventHeader::ContentType)));
            if let Some(in_place) = in_place {
                let event = built(&all, content_type.as_deref()).expect("it is valid");
                let mut expected = event.attributes().map(|(name, value)| (name, header_value::encode(value).into_owned())).collect::<Vec<_>>();
                let mut found = in_place.attributes().map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>();
                expected.sort();
                found.sort();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(in_place.data_content_type(), event.data_content_type());
            }
        }
    }
}
