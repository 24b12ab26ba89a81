//! The HTTP protocol binding 1.0.2: binary, structured and batched content mode.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, InvalidHeaderName};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Builder, Event, Invalid, header_value, json, media_type};

/// How events travel in a message (section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Attributes in headers, data in the body.
    Binary,
    /// One event in the body.
    Structured,
    /// Any number of events in the body.
    Batched,
}

impl Mode {
    /// The mode's name, lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Structured => "structured",
            Self::Batched => "batched",
        }
    }
}

/// Before each attribute's name in a header's.
const PREFIX: &str = "ce-";

const CONTENT_TYPE_NAME: &str = "content-type";

/// A map of headers grows only beyond that.
const USUAL_HEADERS: usize = 12;

/// Reads the events of a message.
///
/// # Errors
/// The content type is not one of CloudEvents in JSON and there are no `ce-` headers; or the event breaks a
/// rule; or there are too many.
pub fn decode(headers: &HeaderMap, body: Bytes) -> Result<(Mode, Vec<Event>), Invalid> {
    refuse_content_encoding(headers)?;
    let content_type = content_type(headers)?;
    let mode = mode(headers, content_type)?;
    let events = match mode {
        Mode::Binary => vec![decode_binary(headers, content_type, body)?],
        Mode::Structured => vec![json::decode(&body)?],
        Mode::Batched => json::decode_batch(&body)?,
    };
    Ok((mode, events))
}

/// An event in binary mode: its headers (`Content-Type` included) and body.
///
/// # Errors
/// None that is known: valid attributes make valid headers.
pub fn encode_binary(event: &Event) -> Result<(HeaderMap, Bytes), http::Error> {
    // Room for the usual ones, and for what is added to a request.
    let mut headers = HeaderMap::with_capacity(USUAL_HEADERS);
    for header in binary_headers(event) {
        let name = if header.prefix.is_empty() { CONTENT_TYPE } else { header_name(header.name)? };
        headers.insert(name, HeaderValue::try_from(&*header.value)?);
    }
    Ok((headers, event.data().cloned().unwrap_or_default()))
}

/// A header of an event in binary mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryHeader<'e> {
    /// How its name begins.
    pub prefix: &'static str,
    /// The rest of it.
    pub name: &'e str,
    /// Its value, encoded.
    pub value: Cow<'e, str>,
}

/// The headers of an event in binary mode, `Content-Type` included, for those who write them somewhere themselves. Its
/// body is its data.
pub fn binary_headers(event: &Event) -> impl Iterator<Item = BinaryHeader<'_>> {
    let attribute = |(name, value)| BinaryHeader { prefix: PREFIX, name, value: header_value::encode(value) };
    let content_type = |value| BinaryHeader { prefix: "", name: CONTENT_TYPE_NAME, value: Cow::Borrowed(value) };
    event.attributes().map(attribute).chain(event.data_content_type().map(content_type))
}

/// An event in structured mode; its content type is [`media_type::STRUCTURED`].
///
/// # Errors
/// As [`json::encode`].
pub fn encode_structured(event: &Event) -> serde_json::Result<Bytes> {
    json::encode(event)
}

/// Events in batched mode; the content type is [`media_type::BATCH`].
///
/// # Errors
/// As [`json::encode`].
pub fn encode_batch(events: &[Event]) -> serde_json::Result<Bytes> {
    json::encode_batch(events)
}

/// The names of attributes that every event has are known beforehand.
fn header_name(attribute: &str) -> Result<HeaderName, InvalidHeaderName> {
    const SPEC_VERSION: HeaderName = HeaderName::from_static("ce-specversion");
    const ID: HeaderName = HeaderName::from_static("ce-id");
    const SOURCE: HeaderName = HeaderName::from_static("ce-source");
    const TYPE: HeaderName = HeaderName::from_static("ce-type");
    match attribute {
        "specversion" => Ok(SPEC_VERSION),
        "id" => Ok(ID),
        "source" => Ok(SOURCE),
        "type" => Ok(TYPE),
        other => HeaderName::try_from(format!("{PREFIX}{other}")),
    }
}

fn refuse_content_encoding(headers: &HeaderMap) -> Result<(), Invalid> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Invalid::UnsupportedEncoding("Content-Encoding is not supported: send the body as it is".into()))
        }
        _ => Ok(()),
    }
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Invalid> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Invalid::malformed("Content-Type is there more than once: send it once"));
    }
    let text = first.to_str().map_err(|_| Invalid::malformed("Content-Type is not ASCII: send a media type"))?;
    Ok(Some(text))
}

/// Section 3: the content type decides; binary is what is neither structured nor batched.
fn mode(headers: &HeaderMap, content_type: Option<&str>) -> Result<Mode, Invalid> {
    let essence = media_type::essence(content_type.unwrap_or_default());
    let begins = |with: &str| essence.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    let mode = if essence.eq_ignore_ascii_case(media_type::STRUCTURED) {
        Mode::Structured
    } else if essence.eq_ignore_ascii_case(media_type::BATCH) {
        Mode::Batched
    } else if begins("application/cloudevents") {
        return Err(Invalid::UnsupportedMediaType("this event format is not supported: send JSON".into()));
    } else if headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(Mode::Binary);
    } else {
        let problem = "no CloudEvent: send ce- headers (ce-specversion, ce-id, ce-source, ce-type), or a body of type \
                       application/cloudevents+json or application/cloudevents-batch+json";
        return Err(Invalid::UnsupportedMediaType(problem.into()));
    };
    match content_type.and_then(media_type::charset) {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") => {
            Err(Invalid::UnsupportedMediaType("JSON of this charset is not supported: send UTF-8".into()))
        }
        _ => Ok(mode),
    }
}

fn decode_binary(headers: &HeaderMap, content_type: Option<&str>, body: Bytes) -> Result<Event, Invalid> {
    let mut builder = Builder::default().data(body);
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        if name == "datacontenttype" {
            return Err(Invalid::attribute(name, "must not be a ce- header: send Content-Type"));
        }
        let value = header_value::decode(value.as_bytes())
            .ok_or_else(|| Invalid::attribute(name, "is not UTF-8: percent-encode its UTF-8 bytes"))?;
        builder = builder.attribute(name, value);
    }
    if let Some(content_type) = content_type {
        builder = builder.attribute("datacontenttype", content_type);
    }
    builder.build()
}
