//! Which topics an ingress serves: a file in a folder that the kubelet keeps, so that a topic restarts nothing.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Routing;
use super::publishers::{self, MAX_CLIENT_CAS, MAX_KEYS, PublisherRule, TokenTrust};
use crate::message_id::{BadKey, TopicKey};
use crate::topic_id::TopicId;

/// The name of the file in [`super::Ingress::topics`], and the key of the Secret that is mounted there.
pub const TOPICS_FILE: &str = "topics.json";
/// Bytes of the file at most: those of a Secret (`MaxSecretSize` of Kubernetes).
pub const MAX_TOPICS_FILE: usize = 1 << 20;
/// Topics of a broker at most.
pub const MAX_TOPICS: usize = 500;

/// The topics of a broker. Fields that this version does not know are skipped: the file may be written by a newer
/// operator, and is not a part of the pod template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topics {
    /// All of them.
    pub topics: Vec<ServedTopic>,
    /// By what tokens of ServiceAccounts are verified; `None`: no token is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenTrust>,
    /// The certificate authorities whose client certificates are good, PEM; `None`: clients are not asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cas: Option<String>,
    /// Whether the broker has more than one server. They flush what many publishers sent together
    /// ([`super::Flush::Shared`]), whatever one on its own does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub several_servers: bool,
}

/// A topic as its ingress knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedTopic {
    /// Which one.
    #[serde(flatten)]
    pub id: TopicId,
    /// The host names by which requests and devices name it, without ports; compared without regard to case.
    pub hosts: Vec<String>,
    /// How its events travel.
    #[serde(default)]
    pub routing: Routing,
    /// The largest event in bytes (attributes and data together).
    pub max_event_size: usize,
    /// Its key for message ids.
    pub message_id_key: KeyText,
    /// Who may publish what. Nobody may, if there is none.
    #[serde(default, deserialize_with = "publishers::known_rules")]
    pub publishers: Vec<PublisherRule>,
    /// What the operator calls this state of the topic; the ingress repeats it when it is asked what it serves.
    #[serde(default)]
    pub revision: String,
}

/// The text of a [`TopicKey`]. It is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(String);

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// Nothing is as large as that.
    #[error("the file has more than {MAX_TOPICS_FILE} bytes")]
    TooLarge,
    /// It is not what [`Topics`] describes.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// There are more than a broker has.
    #[error("{0} topics: a broker has {MAX_TOPICS} at most")]
    TooMany(usize),
    /// A topic is there twice.
    #[error("topic {0} is there twice")]
    Twice(TopicId),
    /// A topic has no key.
    #[error("topic {topic}: {error}")]
    Key {
        /// Which one.
        topic: TopicId,
        /// What is wrong with it.
        error: BadKey,
    },
    /// A topic takes no event.
    #[error("topic {0}: maxEventSize is 0")]
    NoSize(TopicId),
    /// There are more keys for tokens than are kept, or one is too long.
    #[error("tokens: there may be {MAX_KEYS} keys, of no more than 8,192 bits")]
    Tokens,
    /// There is more than the certificate authorities need.
    #[error("clientCas has more than {MAX_CLIENT_CAS} bytes")]
    ClientCas,
}

impl Topics {
    /// Reads the file's content.
    ///
    /// # Errors
    /// It is not usable, as [`TopicsError`] says. No part of it is, then.
    pub fn parse(content: &[u8]) -> Result<Self, TopicsError> {
        if content.len() > MAX_TOPICS_FILE {
            return Err(TopicsError::TooLarge);
        }
        let read: Self = serde_json::from_slice(content)?;
        if read.topics.len() > MAX_TOPICS {
            return Err(TopicsError::TooMany(read.topics.len()));
        }
        if read.tokens.as_ref().is_some_and(|tokens| !tokens.is_within_bounds()) {
            return Err(TopicsError::Tokens);
        }
        if read.client_cas.as_ref().is_some_and(|cas| cas.len() > MAX_CLIENT_CAS) {
            return Err(TopicsError::ClientCas);
        }
        let mut seen = BTreeSet::new();
        for topic in &read.topics {
            if !seen.insert(&topic.id) {
                return Err(TopicsError::Twice(topic.id.clone()));
            }
            if topic.max_event_size == 0 {
                return Err(TopicsError::NoSize(topic.id.clone()));
            }
            topic.message_id_key.key().map_err(|error| TopicsError::Key { topic: topic.id.clone(), error })?;
        }
        Ok(read)
    }
}

impl KeyText {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key.
    ///
    /// # Errors
    /// The text is none.
    pub fn key(&self) -> Result<TopicKey, BadKey> {
        TopicKey::from_text(&self.0)
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(secret)")
    }
}

/// The operator's question on [`crate::layout::ingress::TOPICS_SUBJECT`]: is this topic served? Or only: who is there?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServesRequest {
    /// Which one; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicId>,
}

/// An ingress's answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServesReply {
    /// The pod's name.
    pub pod: String,
    /// The [revision](ServedTopic::revision) of the topic that is served; `None`: it is not.
    #[serde(default)]
    pub revision: Option<String>,
    /// The [generation](crate::identity::generation) of the certificate that publishers are shown, or an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message_id::key_text;

    fn topic(name: &str) -> serde_json::Value {
        json!({
            "namespace": "shop", "name": name, "hosts": [format!("{name}-topic.shop.svc")], "routing": "Queued",
            "maxEventSize": 1024, "messageIdKey": key_text(&[1; 32]), "revision": "7", "later": "unknown",
        })
    }

    #[test]
    fn a_file_is_taken_as_a_whole_or_not_at_all() {
        let parse = |topics: Vec<serde_json::Value>| {
            let read = Topics::parse(json!({"topics": topics, "more": 1}).to_string().as_bytes());
            read.map(|read| read.topics.len()).map_err(|error| error.to_string())
        };
        assert_eq!(parse(Vec::new()), Ok(0));
        assert_eq!(parse(vec![topic("orders"), topic("bills")]), Ok(2));
        let with = |field: &str, value: serde_json::Value| {
            let mut topic = topic("orders");
            topic[field] = value;
            vec![topic]
        };
        for (bad, said) in [
            (vec![topic("orders"), topic("orders")], "shop/orders is there twice"),
            (with("name", json!("a.b")), "DNS labels"),
            (with("messageIdKey", json!("short")), "shop/orders: not a key"),
            (with("maxEventSize", json!(0)), "maxEventSize is 0"),
            (with("maxEventSize", json!(-1)), "invalid value"),
            (with("hosts", json!("x")), "invalid type"),
            ((0..=MAX_TOPICS).map(|n| topic(&format!("t{n}"))).collect(), "501 topics"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        for bad in [&b""[..], b"{", b"null", b"[]", b"{\"topics\":null}", &vec![b' '; MAX_TOPICS_FILE + 1]] {
            assert!(Topics::parse(bad).is_err());
        }
    }

    #[test]
    fn publishers_and_what_proves_them_are_a_part_of_it() {
        let parse = |field: &str, value: serde_json::Value| {
            let mut orders = topic("orders");
            orders["publishers"] = json!([{"anonymous": {}}, {"unknown": {}}]);
            Topics::parse(json!({"topics": [orders], field: value}).to_string().as_bytes())
        };
        let read = parse("clientCas", json!("PEM")).unwrap();
        assert_eq!(read.topics[0].publishers, [PublisherRule::anonymous()]);
        assert_eq!((read.tokens, read.client_cas.as_deref()), (None, Some("PEM")));
        let keys = |count| json!({"issuer": "i", "keys": {"keys": vec![json!({"kty": "RSA"}); count]}});
        assert_eq!(parse("tokens", keys(MAX_KEYS)).unwrap().tokens.unwrap().issuer, "i");
        assert!(matches!(parse("tokens", keys(MAX_KEYS + 1)), Err(TopicsError::Tokens)));
        assert!(matches!(parse("clientCas", json!("x".repeat(MAX_CLIENT_CAS + 1))), Err(TopicsError::ClientCas)));
        let silent: ServedTopic = serde_json::from_value(topic("orders")).unwrap();
        assert_eq!(silent.publishers, [], "nobody may publish to a topic that says nothing");
    }

    #[test]
    fn a_key_is_not_shown() {
        let read: ServedTopic = serde_json::from_value(topic("orders")).unwrap();
        assert!(!format!("{read:?}").contains(&key_text(&[1; 32])));
        let again: ServedTopic = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
