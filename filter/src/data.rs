//! An event's data as a CEL value.

use std::collections::HashMap;
use std::fmt;

use cel::Value;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use tidegate_cloudevents::{Event, media_type};

/// The data, as its content type says.
///
/// # Errors
/// It should be JSON and is not.
pub fn of(event: &Event) -> serde_json::Result<Value> {
    let Some(data) = event.data() else { return Ok(Value::Null) };
    let content_type = event.data_content_type().unwrap_or_default();
    if media_type::is_json(content_type) {
        return serde_json::from_slice(data).map(|Json(value)| value);
    }
    let text = media_type::is_text(content_type).then(|| std::str::from_utf8(data).ok()).flatten();
    Ok(text.map_or_else(|| data.to_vec().into(), Value::from))
}

/// A value read from JSON, without a tree of another kind between.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Json)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    /// As `int` where it fits: with a `uint`, `data.amount + 1` would not be defined.
    #[expect(clippy::cast_precision_loss, reason = "as JSON numbers are read elsewhere, too")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = HashMap::new();
        while let Some((name, Json(value))) = members.next_entry::<String, _>()? {
            map.insert(name, value);
        }
        Ok(map.into())
    }
}
