//! Byte sizes in the form of Kubernetes quantities: `512Ki`, `1Mi`, `20Gi`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A whole number with an optional binary or decimal unit.
const PATTERN: &str = "^[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|k|M|G|T)?$";

/// A number of bytes as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(String);

/// Not a byte size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write it like 512Ki, 1Mi or 20Gi")]
pub struct InvalidSize(String);

impl Size {
    /// From its string form, unchecked until it is used.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The number of bytes.
    ///
    /// # Errors
    /// The text is not a size, or the number is beyond 64 bits.
    pub fn bytes(&self) -> Result<u64, InvalidSize> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let factor = match unit {
            "" => Some(1),
            "k" => Some(1000),
            "M" => Some(1000u64.pow(2)),
            "G" => Some(1000u64.pow(3)),
            "T" => Some(1000u64.pow(4)),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            "Ti" => Some(1u64 << 40),
            _ => None,
        };
        number
            .parse::<u64>()
            .ok()
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .ok_or_else(|| InvalidSize(self.0.clone()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A rule and no pattern: a pattern's message is the pattern.
        json_schema!({"type": "string", "maxLength": 20, "x-kubernetes-validations": [{
            "rule": format!("self.matches('{PATTERN}')"),
            "message": "is not a size: write it like 512Ki, 1Mi or 20Gi",
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_units() {
        let bytes = |text: &str| Size::new(text).bytes().ok();
        assert_eq!(bytes("1Mi"), Some(1_048_576));
        assert_eq!(bytes("20Gi"), Some(20 << 30));
        assert_eq!(bytes("5M"), Some(5_000_000));
        assert_eq!(bytes("77"), Some(77));
        for wrong in ["", "Gi", "1.5Gi", "1 Gi", "-1", "999999999999999Ti", "1Mb"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
