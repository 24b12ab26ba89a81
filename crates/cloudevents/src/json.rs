//! The JSON event format 1.0.2: one event as an object, a batch as an array of them.
//!
//! JSON data is neither parsed nor rewritten: its bytes pass as they are.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::media_type::{self, is_json, is_text};
use crate::{Builder, Event, Invalid};

/// Events in a batch at most.
pub const MAX_BATCH: usize = 1000;

/// Reads one event.
///
/// # Errors
/// Not JSON, or not a valid event.
pub fn decode(body: &Bytes) -> Result<Event, Invalid> {
    event(body, serde_json::from_slice(body).map_err(not_json)?)
}

/// Reads a batch, which may be empty.
///
/// # Errors
/// Not a JSON array, more than [`MAX_BATCH`] events, or an event is not valid (all are refused then).
pub fn decode_batch(body: &Bytes) -> Result<Vec<Event>, Invalid> {
    let batch: Vec<&RawValue> = serde_json::from_slice(body).map_err(not_json)?;
    if batch.len() > MAX_BATCH {
        return Err(Invalid::TooMany { limit: MAX_BATCH });
    }
    let one = |raw: &RawValue| event(body, serde_json::from_str(raw.get()).map_err(not_json)?);
    batch.into_iter().enumerate().map(|(position, raw)| one(raw).map_err(|error| error.at(position))).collect()
}

/// Writes one event.
///
/// # Errors
/// None that is known: writing strings into memory does not fail.
pub fn encode(event: &Event) -> serde_json::Result<Bytes> {
    serde_json::to_vec(&Object(event)).map(Bytes::from)
}

/// Writes a batch.
///
/// # Errors
/// As [`encode`].
pub fn encode_batch(events: &[Event]) -> serde_json::Result<Bytes> {
    let objects: Vec<Object<'_>> = events.iter().map(Object).collect();
    serde_json::to_vec(&objects).map(Bytes::from)
}

fn not_json(error: serde_json::Error) -> Invalid {
    Invalid::malformed(format!("the body is not a CloudEvent in JSON: {error}"))
}

/// The members of a JSON object in their order, values unparsed. (A map would hide repeated names.)
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &RawValue>()? {
                    members.push((Cow::Owned(member.0), member.1));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn event(body: &Bytes, Members(members): Members<'_>) -> Result<Event, Invalid> {
    let mut builder = Builder::default();
    let mut content_type = None;
    let (mut data, mut data_base64) = (None, None);
    for (name, value) in members {
        let slot = match &*name {
            "data" => &mut data,
            "data_base64" => &mut data_base64,
            _ => {
                let Some(value) = attribute(&name, value)? else { continue };
                if name == "datacontenttype" {
                    content_type = Some(value.clone());
                }
                builder = builder.attribute(name, value);
                continue;
            }
        };
        if slot.replace(value).is_some() {
            return Err(Invalid::attribute(&name, "is there more than once: send it once"));
        }
    }
    let json = content_type.as_deref().is_none_or(is_json);
    // An unset value may be written as null; but null is a value of JSON, so that JSON data can be it.
    let data_base64 = data_base64.filter(|value| value.get() != "null");
    let data = data.filter(|value| value.get() != "null" || (json && data_base64.is_none()));
    match (data, data_base64) {
        (None, None) => builder.build(),
        (Some(_), Some(_)) => Err(Invalid::malformed("data and data_base64 are both there: send one of them")),
        (None, Some(encoded)) => builder.data(from_base64(encoded)?).build(),
        (Some(raw), None) if json => {
            // What is implied here would not be implied elsewhere, so it is made explicit (section 3.1).
            let implied = content_type.is_none().then_some(media_type::JSON);
            let builder = implied.into_iter().fold(builder, |builder, json| builder.attribute("datacontenttype", json));
            builder.data(body.slice_ref(raw.get().as_bytes())).build()
        }
        (Some(raw), None) => builder.data(from_string(raw)?).build(),
    }
}

/// An attribute's canonical string (section 2.2); `None` if it is unset.
fn attribute(name: &str, value: &RawValue) -> Result<Option<String>, Invalid> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'"') => match serde_json::from_str(text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Invalid::attribute(name, "is not a valid Unicode string: escape surrogates in pairs")),
        },
        Some(b'n') => Ok(None),
        _ if is_core(name) => Err(Invalid::attribute(name, "must be a JSON string")),
        Some(b't' | b'f') => Ok(Some(text.to_owned())),
        Some(b'{' | b'[') => {
            Err(Invalid::attribute(name, "must be a string, an integer or a boolean, not a structure"))
        }
        _ => match text.parse::<i32>() {
            Ok(integer) => Ok(Some(integer.to_string())),
            Err(_) => Err(Invalid::attribute(name, "must be an integer of 32 bits: send other numbers as a string")),
        },
    }
}

fn is_core(name: &str) -> bool {
    matches!(name, "specversion" | "id" | "source" | "type" | "subject" | "time" | "dataschema" | "datacontenttype")
}

fn from_string(raw: &RawValue) -> Result<String, Invalid> {
    serde_json::from_str(raw.get()).map_err(|_| {
        Invalid::malformed(
            "data is not a string, but datacontenttype names no JSON type: send a string, data_base64, \
             or another datacontenttype",
        )
    })
}

fn from_base64(raw: &RawValue) -> Result<Vec<u8>, Invalid> {
    serde_json::from_str::<Cow<'_, str>>(raw.get())
        .ok()
        .and_then(|encoded| STANDARD.decode(encoded.as_bytes()).ok())
        .ok_or_else(|| Invalid::malformed("data_base64 is not a string of standard base64: encode it as RFC 4648 says"))
}

/// An event as it is written.
struct Object<'a>(&'a Event);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(event) = self;
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in event.attributes() {
            object.serialize_entry(name, value)?;
        }
        let content_type = event.data_content_type();
        if let Some(content_type) = content_type {
            object.serialize_entry("datacontenttype", content_type)?;
        }
        if let Some(data) = event.data() {
            match Written::of(content_type, data) {
                Written::Json(raw) => object.serialize_entry("data", raw)?,
                Written::Text(text) => object.serialize_entry("data", text)?,
                Written::Binary => object.serialize_entry("data_base64", &STANDARD.encode(data))?,
            }
        }
        object.end()
    }
}

/// The three ways to write data.
enum Written<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Binary,
}

impl<'a> Written<'a> {
    /// Data of a JSON type that is no JSON is written as binary.
    fn of(content_type: Option<&str>, data: &'a Bytes) -> Self {
        let json = || serde_json::from_slice::<&RawValue>(data).ok();
        match content_type {
            Some(content_type) if is_json(content_type) => json().map_or(Self::Binary, Self::Json),
            Some(content_type) if is_text(content_type) => std::str::from_utf8(data).map_or(Self::Binary, Self::Text),
            _ => Self::Binary,
        }
    }
}
