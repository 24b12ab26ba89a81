//! An event's data as a CEL value.
//!
//! A value takes many times the bytes of its JSON (`[]` has two), so what all of them take has a bound of its own.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;

use cel::Value;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use tidegate_cloudevents::{Event, media_type};

/// What the values of an event may take, in bytes.
const MAX_VALUES: usize = 32 << 20;
/// What a value takes besides its text: it is kept twice, as it was read and as the interpreter wants it.
const VALUE: usize = 96;

/// Why there is no value.
#[derive(Debug)]
pub enum Unreadable {
    /// It should be JSON and is not.
    Invalid(serde_json::Error),
    /// Its values take more than [`MAX_VALUES`].
    TooLarge,
}

/// The data, as its content type says.
///
/// # Errors
/// See [`Unreadable`].
pub fn of(event: &Event) -> Result<Value, Unreadable> {
    let Some(data) = event.data() else { return Ok(Value::Null) };
    let content_type = event.data_content_type().unwrap_or_default();
    if media_type::is_json(content_type) {
        return json(data);
    }
    let text = media_type::is_text(content_type).then(|| std::str::from_utf8(data).ok()).flatten();
    Ok(text.map_or_else(|| data.to_vec().into(), Value::from))
}

fn json(data: &[u8]) -> Result<Value, Unreadable> {
    let left = Cell::new(MAX_VALUES);
    let mut deserializer = serde_json::Deserializer::from_slice(data);
    let value = AnyValue(&left).deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(_) if left.get() == 0 => Err(Unreadable::TooLarge),
        Err(error) => Err(Unreadable::Invalid(error)),
    }
}

/// A value read from JSON, without a tree of another kind between; with the bytes that are left for all of them.
#[derive(Clone, Copy)]
struct AnyValue<'a>(&'a Cell<usize>);

impl AnyValue<'_> {
    /// Takes the bytes of a value with so much text. What is over leaves nothing.
    fn take<E: Error>(self, text: usize) -> Result<(), E> {
        let left = self.0.get().saturating_sub(VALUE + text);
        self.0.set(left);
        if left == 0 { Err(E::custom("too many values")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.take(0).map(|()| Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.take(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.take(0).map(|()| Value::Int(value))
    }

    /// As `int` where it fits: with a `uint`, `data.amount + 1` would not be defined.
    #[expect(clippy::cast_precision_loss, reason = "as JSON numbers are read elsewhere, too")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.take(0).map(|()| i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.take(0).map(|()| Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.take(value.len()).map(|()| value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::List(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let mut map = HashMap::new();
        while let Some(name) = members.next_key::<String>()? {
            self.take(name.len())?;
            map.insert(name, members.next_value_seed(self)?);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_are_too_large_and_few_large_ones_are_not() {
        let many = |value: &str, count: usize| format!("[{}{value}]", format!("{value},").repeat(count - 1));
        let text = format!("\"{}\"", "x".repeat(8 << 20));
        for (what, data, is_read) in [
            ("one text of 8 MiB", text, true),
            ("numbers", many("1", 300_000), true),
            ("too many numbers", many("1", 400_000), false),
            ("too many lists", many("[]", 2_000_000), false),
            ("too many maps", many("{}", 2_000_000), false),
            ("too many members", many(r#"{"a":0}"#, 200_000), false),
        ] {
            let read = json(data.as_bytes());
            assert_eq!(read.is_ok(), is_read, "{what}");
            assert!(is_read || matches!(read, Err(Unreadable::TooLarge)), "{what}: {read:?}");
        }
        for invalid in ["", "[1,", "[1]]", "{\"a\":}"] {
            assert!(matches!(json(invalid.as_bytes()), Err(Unreadable::Invalid(_))), "{invalid}");
        }
    }
}
