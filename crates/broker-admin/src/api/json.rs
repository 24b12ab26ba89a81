//! How nats-server writes durations, names, texts and bytes, and what of it makes sense.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize as _, Deserializer};

/// The longest name of a stream or a consumer in bytes (`JSMaxNameLen`).
const MAX_NAME: usize = 255;
/// The longest text that is shown to users, in bytes.
pub(super) const MAX_TEXT: usize = 1024;
/// The largest number of messages, bytes or sequence that is believed. A stream that stores a million events a second
/// gets there in nine years; sums of as many of them as a list may have do not overflow.
const MAX_COUNT: u64 = 1 << 48;

/// Durations in nanoseconds, as Go writes them.
pub(super) mod nanos {
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Duration;

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let nanos = i64::try_from(duration.as_nanos());
        serializer.serialize_i64(nanos.map_err(|_| S::Error::custom(format_args!("{duration:?} is too long")))?)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

/// A number of messages or bytes, or a sequence.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let count = u64::deserialize(deserializer)?;
    if count <= MAX_COUNT { Ok(count) } else { Err(D::Error::custom(format_args!("{count} makes no sense"))) }
}

/// The name of a stream or a consumer: one token of a subject.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_name(&name) { Ok(name) } else { Err(D::Error::custom("a name is none that a broker gives")) }
}

/// Whether a stream or a consumer can have this name (`isValidAssetName`).
pub(super) fn is_name(name: &str) -> bool {
    let is_part =
        |char: char| !char.is_whitespace() && !char.is_control() && !matches!(char, '.' | '*' | '>' | '\\' | '/');
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(is_part)
}

/// How many entries a list has.
pub(super) fn length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Vec::<IgnoredAny>::deserialize(deserializer).map(|entries| entries.len())
}

/// Whether anything is said.
pub(super) fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<IgnoredAny>::deserialize(deserializer).map(|found| found.is_some())
}

/// A text for people.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| bounded(&text))
}

/// The same, which may be left out.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|text| bounded(&text)))
}

/// As much of a text as is shown to users, without control characters.
pub(crate) fn bounded(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_TEXT).map(|char| if char.is_control() { ' ' } else { char }).collect();
    while shown.len() > MAX_TEXT {
        shown.pop();
    }
    shown
}

/// Bytes in base64.
pub(super) fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
}
