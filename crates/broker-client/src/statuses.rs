//! Statuses of HTTP, one by one or by class: which of a handler's answers are final is up to its owner.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A status (`404`) or a class of them (`5xx`); of redirects and errors only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StatusMatch {
    /// This status, from 300 to 599.
    Code(u16),
    /// All from 100 times this number to the next hundred; 3, 4 or 5.
    Class(u16),
}

/// A text is neither a status nor a class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a status from 300 to 599, such as \"404\", nor one of the classes 3xx, 4xx and 5xx")]
pub struct InvalidStatus(String);

impl FromStr for StatusMatch {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        match text.as_bytes() {
            [class @ b'3'..=b'5', b'x', b'x'] => Ok(Self::Class(u16::from(class - b'0'))),
            [b'3'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
                text.parse().map(Self::Code).map_err(|_| InvalidStatus(text.into()))
            }
            _ => Err(InvalidStatus(text.chars().take(32).collect())),
        }
    }
}

impl TryFrom<String> for StatusMatch {
    type Error = InvalidStatus;

    fn try_from(text: String) -> Result<Self, InvalidStatus> {
        text.parse()
    }
}

impl From<StatusMatch> for String {
    fn from(status: StatusMatch) -> Self {
        status.to_string()
    }
}

impl fmt::Display for StatusMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

/// Which statuses are retried and which are final, where that differs from what is usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusRules {
    /// These are retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retried: Vec<StatusMatch>,
    /// These are final.
    #[serde(default, rename = "final", skip_serializing_if = "Vec::is_empty")]
    pub final_: Vec<StatusMatch>,
}

impl StatusRules {
    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self.retried.is_empty() && self.final_.is_empty()
    }

    /// Whether a status is retried; `None`: they do not say. A status goes before its class, and to retry before to
    /// give up.
    pub fn is_retried(&self, code: u16) -> Option<bool> {
        let find = |wanted| match () {
            () if self.retried.contains(&wanted) => Some(true),
            () if self.final_.contains(&wanted) => Some(false),
            () => None,
        };
        find(StatusMatch::Code(code)).or_else(|| find(StatusMatch::Class(code / 100)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_status_is_refused() {
        for text in ["300", "404", "599", "3xx", "4xx", "5xx"] {
            assert_eq!(text.parse::<StatusMatch>().unwrap().to_string(), text);
        }
        for text in
            ["", "200", "2xx", "600", "6xx", "40", "4040", "4XX", "4x4", " 404", "+404", "-404", "404 ", "٤٠٤", "xx"]
        {
            let error = text.parse::<StatusMatch>().unwrap_err().to_string();
            assert!(error.contains("300 to 599"), "{error}");
        }
        let error = "9".repeat(10_000).parse::<StatusMatch>().unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn a_status_goes_before_its_class() {
        let rules: StatusRules =
            serde_json::from_value(json!({"retried": ["4xx", "501"], "final": ["404", "5xx"]})).unwrap();
        for (code, expected) in [
            (404, Some(false)),
            (409, Some(true)),
            (501, Some(true)),
            (503, Some(false)),
            (302, None),
            (600, None),
            (42, None),
        ] {
            assert_eq!(rules.is_retried(code), expected, "{code}");
        }
        assert_eq!(serde_json::to_value(&rules).unwrap(), json!({"retried": ["4xx", "501"], "final": ["404", "5xx"]}));
        assert_eq!(serde_json::to_value(StatusRules::default()).unwrap(), json!({}));
        assert!(serde_json::from_value::<StatusRules>(json!({"retried": [404]})).is_err());
        assert_eq!(StatusRules::default().is_retried(500), None);
    }
}
