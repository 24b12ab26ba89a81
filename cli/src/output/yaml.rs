//! JSON as YAML, value by value: nothing of it is read as a number that a float might not hold, so each has the digits that it
//! was stored with.

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{escaped, is_visible};

/// Levels that are written as lines. What lies deeper is written as JSON, which is YAML too.
const MAX_DEPTH: usize = 32;

/// A JSON document as YAML, without its last line's end; `None`: it is no JSON.
pub fn of_json(json: &str) -> Option<String> {
    let mut yaml = String::new();
    value(serde_json::from_str(json).ok()?, 0, &mut yaml)?;
    Some(yaml.trim_start_matches(['\n', ' ']).to_owned())
}

/// Writes a value behind what it belongs to, with what goes before it: a space, or the end of the line.
fn value(json: &RawValue, depth: usize, yaml: &mut String) -> Option<()> {
    let text = json.get();
    match text.as_bytes().first()? {
        b'{' | b'[' if depth >= MAX_DEPTH => {
            yaml.push(' ');
            yaml.push_str(&escaped(text));
        }
        b'{' => fields(text, depth, yaml)?,
        b'[' => items(text, depth, yaml)?,
        b'"' => {
            yaml.push(' ');
            yaml.push_str(&scalar(&serde_json::from_str::<String>(text).ok()?));
        }
        // A number, true, false or null: the same in both.
        _ => {
            yaml.push(' ');
            yaml.push_str(text);
        }
    }
    Some(())
}

fn fields(json: &str, depth: usize, yaml: &mut String) -> Option<()> {
    let Fields(fields) = Fields::of_json(json)?;
    if fields.is_empty() {
        yaml.push_str(" {}");
    }
    for (name, field) in fields {
        begin(depth, yaml);
        yaml.push_str(&scalar(&name));
        yaml.push(':');
        value(field, depth + 1, yaml)?;
    }
    Some(())
}

fn items(json: &str, depth: usize, yaml: &mut String) -> Option<()> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    if items.is_empty() {
        yaml.push_str(" []");
    }
    for item in items {
        begin(depth, yaml);
        yaml.push('-');
        value(item, depth + 1, yaml)?;
    }
    Some(())
}

fn begin(depth: usize, yaml: &mut String) {
    yaml.push('\n');
    yaml.push_str(&"  ".repeat(depth));
}

/// A text: as it is, if it can be nothing else in YAML, else within quotes.
fn scalar(text: &str) -> String {
    if is_word(text) { text.to_owned() } else { quoted(text) }
}

fn is_word(text: &str) -> bool {
    // YAML 1.1 has these besides those of 1.2, and is still read.
    const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/'))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && !RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if is_visible(c.encode_utf8(&mut [0; 4])) => quoted.push(c),
            c => match u32::from(c) {
                code @ 0..=0xFFFF => quoted.push_str(&format!("\\u{code:04x}")),
                code => quoted.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    quoted.push('"');
    quoted
}

/// The fields of an object, in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn of_json(json: &'a str) -> Option<Self> {
        serde_json::Deserializer::from_str(json).deserialize_map(InOrder).ok()
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn digits_are_those_that_are_stored() {
        let json = r#"{"big":12345678901234567890123.10,"huge":1e400,"small":0.1000,"whole":-0,"list":[18446744073709551616,1.50]}"#;
        let yaml = of_json(json).unwrap();
        assert_eq!(
            yaml,
            "big: 12345678901234567890123.10\nhuge: 1e400\nsmall: 0.1000\nwhole: -0\nlist:\n  - 18446744073709551616\n  - 1.50"
        );
    }

    #[test]
    fn it_is_read_as_the_same_value() {
        for value in [
            json!({"a": {"b": [1, "x", {"c": []}, [[]], {}], "d": null}, "e": true, "-": "- a: b #", "": ""}),
            json!([]),
            json!({}),
            json!("yes"),
            json!([["a", ["b"]], {"No": "null", "1": "1", "1.5": "2026-01-01T00:00:00Z", "~": "~", ".5": ".inf", "0x1": "_"}]),
            json!("line\nline\r\n\t\u{85}\u{2028}\u{feff} \"\\\u{e0041}😀"),
        ] {
            let yaml = of_json(&value.to_string()).unwrap();
            assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), value, "{yaml}");
            assert!(yaml.lines().all(is_visible), "{yaml:?}");
        }
        assert_eq!(of_json("{"), None);
    }

    /// As deep as an event's data may be: what a stranger nests uses up no stack.
    #[test]
    fn what_is_nested_deeply_is_written_as_json() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert!(of_json(&deep).is_none_or(|yaml| yaml.ends_with(&"]".repeat(999_968))));
        let json = "[".repeat(40) + "1" + &"]".repeat(40);
        let yaml = of_json(&json).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), serde_json::from_str::<Value>(&json).unwrap());
    }
}
