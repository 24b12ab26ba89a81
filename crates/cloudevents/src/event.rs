//! One event: context attributes and data, valid by construction.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use crate::attribute::{check_name, check_value};
use crate::{Invalid, header_value, media_type};

/// The version of CloudEvents, and the only value of `specversion`.
pub const SPEC_VERSION: &str = "1.0";
/// Longest `type` in bytes: escaped, it must still fit into a NATS subject.
pub const MAX_TYPE_SIZE: usize = 1024;
/// An event of this size is taken whatever of it are attributes (CloudEvents 1.0.2, "Size Limits").
pub const MIN_MAX_SIZE: usize = 64 * 1024;
/// All attributes of a larger event together, in bytes, as headers.
pub const MAX_ATTRIBUTES_SIZE: usize = 48 * 1024;
/// Attributes of a published event.
pub const MAX_ATTRIBUTES: usize = 1024;

/// Attributes that are fields of [`Event`] of their own.
const FIELDS: [&str; 5] = ["specversion", "id", "source", "type", "datacontenttype"];

/// Names of attributes that many events have: they are kept without a copy of each.
const USUAL_NAMES: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "datacontenttype",
    "subject",
    "time",
    "dataschema",
    "partitionkey",
    "traceparent",
    "tracestate",
];

/// Attributes by their names.
type Attributes = BTreeMap<Cow<'static, str>, String>;

/// A valid CloudEvent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: String,
    source: String,
    event_type: String,
    data_content_type: Option<String>,
    others: Attributes,
    data: Option<Bytes>,
}

impl Event {
    /// Starts an event with its required attributes.
    pub fn builder(id: &str, source: &str, event_type: &str) -> Builder {
        let required = [("specversion", SPEC_VERSION), ("id", id), ("source", source), ("type", event_type)];
        let attributes = required.map(|(name, value)| (Cow::Borrowed(name), value.to_owned()));
        Builder { attributes: attributes.into(), repeated: None, data: None }
    }

    /// `id`: unique together with [`Self::source`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `source`: a URI-reference.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// `type`.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// `datacontenttype`: the media type of [`Self::data`].
    pub fn data_content_type(&self) -> Option<&str> {
        self.data_content_type.as_deref()
    }

    /// All context attributes but `datacontenttype`, as names and canonical strings; the required ones first.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let required = [
            ("specversion", SPEC_VERSION),
            ("id", self.id.as_str()),
            ("source", self.source.as_str()),
            ("type", self.event_type.as_str()),
        ];
        required.into_iter().chain(self.others.iter().map(|(name, value)| (&**name, value.as_str())))
    }

    /// One context attribute, `datacontenttype` included.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        match name {
            "specversion" => Some(SPEC_VERSION),
            "id" => Some(&self.id),
            "source" => Some(&self.source),
            "type" => Some(&self.event_type),
            "datacontenttype" => self.data_content_type(),
            other => self.others.get(other).map(String::as_str),
        }
    }

    /// The payload. Never empty: no data and empty data are the same, as in HTTP's binary mode.
    pub fn data(&self) -> Option<&Bytes> {
        self.data.as_ref()
    }

    /// Bytes of all attributes (names and values) and data together.
    pub fn size(&self) -> usize {
        let content_type = self.data_content_type().map(|value| ("datacontenttype", value));
        let attributes: usize =
            self.attributes().chain(content_type).map(|(name, value)| name.len() + value.len()).sum();
        attributes + self.data.as_ref().map_or(0, Bytes::len)
    }

    /// The event with one more extension (or another value of it).
    ///
    /// The bounds on number and size of attributes are for publishers and are not applied here.
    ///
    /// # Errors
    /// The name or value is not valid, or the name is that of a required attribute.
    pub fn with_extension(mut self, name: &str, value: impl Into<String>) -> Result<Self, Invalid> {
        let value = value.into();
        check_name(name)?;
        check_value(name, &value)?;
        if FIELDS.contains(&name) {
            return Err(Invalid::attribute(name, "is not an extension: set it in the builder"));
        }
        self.others.insert(key(name), value);
        Ok(self)
    }

    /// The event under another `id`.
    ///
    /// # Errors
    /// The `id` is not valid.
    pub fn with_id(self, id: impl Into<String>) -> Result<Self, Invalid> {
        let id = id.into();
        check_value("id", &id)?;
        Ok(Self { id, ..self })
    }

    /// Removes an extension. Answers with its value, if it was there.
    pub fn take_extension(&mut self, name: &str) -> Option<String> {
        self.others.remove(name)
    }
}

/// Collects attributes and data in any order; [`Builder::build`] checks them.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    attributes: Attributes,
    repeated: Option<Cow<'static, str>>,
    data: Option<Bytes>,
}

impl Builder {
    /// Adds an attribute, `datacontenttype` included. One that is there already makes the event invalid.
    #[must_use]
    pub fn attribute(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        match self.attributes.entry(key(name.as_ref())) {
            Entry::Vacant(free) => {
                free.insert(value.into());
            }
            Entry::Occupied(taken) => self.repeated = Some(taken.key().clone()),
        }
        self
    }

    /// Sets the data. Empty data without a content type, or of a JSON type (of which it is none), is no data.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// The event.
    ///
    /// # Errors
    /// A rule of the specification is broken, or a bound of this crate.
    pub fn build(self) -> Result<Event, Invalid> {
        if let Some(name) = &self.repeated {
            return Err(Invalid::attribute(name, "is there more than once: send it once"));
        }
        for (name, value) in &self.attributes {
            check_name(name)?;
            check_value(name, value)?;
        }
        let empty_means_something =
            self.attributes.get("datacontenttype").is_some_and(|content_type| !media_type::is_json(content_type));
        let data = self.data.filter(|data| empty_means_something || !data.is_empty());
        check_bounds(&self.attributes, data.as_ref().map_or(0, Bytes::len))?;
        let mut others = self.attributes;
        let mut required = |name: &str| {
            others.remove(name).ok_or_else(|| Invalid::attribute(name, "is missing: every event needs it"))
        };
        required("specversion")?;
        let (id, source, event_type) = (required("id")?, required("source")?, required("type")?);
        let data_content_type = others.remove("datacontenttype");
        Ok(Event { id, source, event_type, data_content_type, others, data })
    }
}

/// A name as it is kept.
fn key(name: &str) -> Cow<'static, str> {
    let usual = USUAL_NAMES.into_iter().find(|usual| *usual == name);
    usual.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

fn check_bounds(attributes: &Attributes, data: usize) -> Result<(), Invalid> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(Invalid::malformed(format!("more than {MAX_ATTRIBUTES} attributes: move some into the data")));
    }
    if attributes.get("type").is_some_and(|value| value.len() > MAX_TYPE_SIZE) {
        return Err(Invalid::attribute("type", format!("is longer than {MAX_TYPE_SIZE} bytes: shorten it")));
    }
    let plain: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if plain + data <= MIN_MAX_SIZE {
        return Ok(());
    }
    let size: usize =
        attributes.iter().map(|(name, value)| "ce-: \r\n".len() + name.len() + header_value::encoded_len(value)).sum();
    if size > MAX_ATTRIBUTES_SIZE {
        let problem = format!("all attributes together are {size} bytes as headers, and {MAX_ATTRIBUTES_SIZE} are");
        let problem = format!("{problem} allowed in an event of more than {MIN_MAX_SIZE} bytes: move large values");
        return Err(Invalid::malformed(format!("{problem} into the data")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Builder {
        Event::builder("1", "/sensors/1", "temperature")
    }

    #[test]
    fn a_missing_attribute_is_named() {
        let error = Builder::default().attribute("specversion", "1.0").attribute("id", "1").build().unwrap_err();
        assert_eq!(error.to_string(), "attribute \"source\" is missing: every event needs it");
    }

    #[test]
    fn a_repeated_attribute_is_refused() {
        let error = minimal().attribute("id", "2").build().unwrap_err();
        assert_eq!(error.to_string(), "attribute \"id\" is there more than once: send it once");
    }

    #[test]
    fn bounds() {
        assert!(Event::builder("1", "/", &"t".repeat(1024)).build().is_ok());
        assert!(Event::builder("1", "/", &"t".repeat(1025)).build().is_err());
        assert!(minimal().attribute("x", "v".repeat(40_000)).build().is_ok());
        assert!(minimal().attribute("x", "ä".repeat(10_000)).build().is_ok(), "as long as all of it is small");
        let encoded_size_counts = minimal().attribute("x", "ä".repeat(10_000)).data(vec![0; 50_000]).build();
        assert!(encoded_size_counts.is_err());
        let many = (0..MAX_ATTRIBUTES).fold(minimal(), |event, i| event.attribute(format!("x{i}"), "1"));
        assert!(many.build().is_err());
    }

    #[test]
    fn extensions_are_added_but_do_not_replace_what_is_required() {
        let event = minimal().build().unwrap().with_extension("attempt", "1").unwrap();
        let event = event.with_extension("attempt", "2").unwrap();
        assert_eq!(event.attribute("attempt"), Some("2"));
        assert!(event.clone().with_extension("id", "2").is_err());
        assert!(event.clone().with_extension("Nats-Msg-Id", "2").is_err());
        assert!(event.with_extension("x", "a\r\nb").is_err());
    }

    #[test]
    fn size_counts_attributes_and_data() {
        let event = Event::builder("1", "/", "t").attribute("datacontenttype", "a/b").data("abc").build().unwrap();
        let expected = "specversion1.0id1source/typetdatacontenttypea/babc".len();
        assert_eq!(event.size(), expected);
    }

    #[test]
    fn empty_data_is_data_where_it_can_be() {
        assert_eq!(minimal().data("").build().unwrap().data(), None);
        let typed = |content_type| minimal().attribute("datacontenttype", content_type).data("").build().unwrap();
        assert_eq!(typed("application/json").data(), None);
        assert_eq!(typed("text/plain").data(), Some(&Bytes::new()));
    }

    /// "Intermediaries MUST forward events of a size of 64 KByte or less" (CloudEvents 1.0.2, "Size Limits").
    #[test]
    fn up_to_64_kib_are_taken_whatever_they_are() {
        let filled = |size: usize| {
            let rest = size - minimal().attribute("x", "").build().unwrap().size();
            minimal().attribute("x", "v".repeat(rest)).build()
        };
        assert_eq!(filled(MIN_MAX_SIZE).unwrap().size(), MIN_MAX_SIZE);
        assert!(filled(MIN_MAX_SIZE + 1).is_err());
        let many = (4..MAX_ATTRIBUTES).fold(minimal(), |event, i| event.attribute(format!("x{i}"), "v".repeat(50)));
        assert!(many.build().is_ok());
    }
}
