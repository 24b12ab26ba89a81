//! Which topic of a broker.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A topic of a broker: the namespace and the name of its EventTopic, both labels of the DNS (RFC 1123, section 2.1), so
/// that each of them is one token of a subject, and one segment of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct TopicId {
    namespace: String,
    name: String,
}

/// The form in JSON.
#[derive(Clone, Serialize, Deserialize)]
struct Parts {
    namespace: String,
    name: String,
}

/// A namespace or a name that no topic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a topic is named by two DNS labels: its namespace and its name")]
pub struct InvalidTopicId;

/// The longest label (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

impl TopicId {
    /// The topic of this name.
    ///
    /// # Errors
    /// One of the two is no DNS label.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, InvalidTopicId> {
        let (namespace, name) = (namespace.into(), name.into());
        if is_label(&namespace) && is_label(&name) { Ok(Self { namespace, name }) } else { Err(InvalidTopicId) }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl TryFrom<Parts> for TopicId {
    type Error = InvalidTopicId;

    fn try_from(Parts { namespace, name }: Parts) -> Result<Self, InvalidTopicId> {
        Self::new(namespace, name)
    }
}

impl From<TopicId> for Parts {
    fn from(TopicId { namespace, name }: TopicId) -> Self {
        Self { namespace, name }
    }
}

/// `namespace/name`
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// From `namespace/name`.
impl std::str::FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<Self, InvalidTopicId> {
        let (namespace, name) = text.split_once('/').ok_or(InvalidTopicId)?;
        Self::new(namespace, name)
    }
}

/// Whether this is a label as Kubernetes has them: in lower case.
fn is_label(text: &str) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=MAX_LABEL).contains(&text.len())
        && text.as_bytes().iter().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_labels_name_a_topic() {
        let longest = "a".repeat(63);
        for (namespace, name) in [("shop", "orders"), ("a", "0"), ("a-b", "x--y"), (&longest, &longest)] {
            let id = TopicId::new(namespace, name).unwrap();
            assert_eq!((id.namespace(), id.name()), (namespace, name));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a*", "*", ">", "a b", "a/b", "ä", "$", &"a".repeat(64)] {
            assert_eq!(TopicId::new("shop", bad), Err(InvalidTopicId), "{bad}");
            assert_eq!(TopicId::new(bad, "orders"), Err(InvalidTopicId), "{bad}");
        }
        for bad in ["shop", "shop/", "/orders", "shop/orders/x", ""] {
            assert_eq!(bad.parse::<TopicId>(), Err(InvalidTopicId), "{bad}");
        }
        assert!(serde_json::from_str::<TopicId>(r#"{"namespace":"shop","name":"a.b"}"#).is_err());
        let id: TopicId = serde_json::from_str(r#"{"namespace":"shop","name":"orders"}"#).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), r#"{"namespace":"shop","name":"orders"}"#);
    }
}
