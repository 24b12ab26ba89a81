//! Durations in the Gateway API's string form (GEP-2257): `30s`, `1h30m`, `500ms`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// GEP-2257: one to four of a number of up to five digits with `h`, `m`, `s` or `ms`.
const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A duration as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(String);

/// Not a duration in the form of GEP-2257.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it like 30s, 5m, 1h30m or 500ms")]
pub struct InvalidDuration(String);

impl Duration {
    /// From its string form, unchecked until it is used.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The duration.
    ///
    /// # Errors
    /// The text is not in the form of GEP-2257.
    pub fn get(&self) -> Result<std::time::Duration, InvalidDuration> {
        parse(&self.0).ok_or_else(|| InvalidDuration(self.0.clone()))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse(text: &str) -> Option<std::time::Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).filter(|number| (1..=5).contains(&number.len()))?.parse().ok()?;
        rest = &rest[digits..];
        let (unit, millis) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * millis;
        parts += 1;
    }
    (1..=4).contains(&parts).then(|| std::time::Duration::from_millis(total))
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A rule and no pattern: a pattern's message is the pattern.
        json_schema!({"type": "string", "maxLength": 32, "x-kubernetes-validations": [{
            "rule": format!("self.matches('{PATTERN}')"),
            "message": "is not a duration: write it like 30s, 5m, 1h30m or 500ms",
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_gep_2257() {
        let millis = |text: &str| Duration::new(text).get().map(|duration| duration.as_millis()).ok();
        assert_eq!(millis("30s"), Some(30_000));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(millis("0s"), Some(0));
        for wrong in ["", "30", "s", "1d", "1.5h", "-1s", "100000s", "1s1s1s1s1s", "1 s"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}
