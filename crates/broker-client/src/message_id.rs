//! Message ids: how a stream recognises that it has a message already.
//!
//! Whoever can choose the id of another publisher's message can make it vanish: the broker answers "stored" and keeps
//! what came first under that id. So no program chooses one freely:
//!
//! | message | its id is made from |
//! |---|---|
//! | event of a publisher that shows nothing of itself | the whole event: only the same event is a repetition |
//! | event of a publisher that is known (by a token, a certificate, or over NATS) | its identity, `source` and `id` |
//! | reply or dead letter to another topic | the handler's UID and a name, with a MAC of the handler's [`HandlerKey`] |
//! | copy that waits for a retry | the handler's UID and the event's sequence: only that handler writes to the stream |
//! | dead letter beside its topic | the event's sequence, keyed by the handler's own seed |

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use sha2::{Digest as _, Sha256};
use tidegate_cloudevents::Event;

/// The request header by which a handler's sidecar names the message id of what it publishes to another topic: a
/// [`Token`].
pub const HEADER: &str = "tidegate-message-id";
/// Longest value of [`HEADER`].
pub const MAX_TOKEN: usize = 256;
/// 32 bytes in base64url.
const CANCEL_KEY_LENGTH: usize = 43;
/// Attributes that say how an event travelled, and not what it is: another try of the same publish may have others.
const TRACE_ATTRIBUTES: [&str; 2] = ["traceparent", "tracestate"];

/// The id of an event from a publisher without an identity. All of the event is in it, so that only what is stored
/// already can make an event a repetition.
pub fn of_content(event: &Event) -> String {
    let mut hash = Hash::new("event");
    for (name, value) in event.attributes().filter(|(name, _)| !TRACE_ATTRIBUTES.contains(name)) {
        hash.add(name.as_bytes());
        hash.add(value.as_bytes());
    }
    hash.add(b"datacontenttype");
    hash.add(event.data_content_type().unwrap_or_default().as_bytes());
    // Empty data is data, and not the same event as one without.
    if let Some(data) = event.data() {
        hash.add(data);
    }
    hash.end()
}

/// The id of an event from the publisher with this identity (which its kind is a part of): CloudEvents 1.0 (section 3.1.1) makes only `source` and
/// `id` together unique, and a publisher answers for its own.
pub fn of_publisher(publisher: &str, source: &str, id: &str) -> String {
    let mut hash = Hash::new("publisher");
    hash.add(publisher.as_bytes());
    hash.add(source.as_bytes());
    hash.add(id.as_bytes());
    hash.end()
}

/// The id of a dead letter beside its topic. `seed` is the handler's own, so that no other handler, which writes to
/// the same stream, can use the id before.
pub fn of_dead_letter(seed: &str, handler_uid: &str, sequence: u64, stored_at: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed.as_bytes());
    let text = format!("tidegate.io/dead-letter/{handler_uid}/{sequence}/{stored_at}");
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()))
}

/// The id of a copy of an event in the handler's stream of retries: each event is there once, however often its copy is
/// sent until it is confirmed. `stored_at` (nanoseconds since 1970) is when the topic stored it: a stream that lost its
/// end gives a sequence to another event, which must not pass for the first one.
pub fn of_retry(handler_uid: &str, sequence: u64, stored_at: u64) -> String {
    let mut hash = Hash::new("retry");
    hash.add(handler_uid.as_bytes());
    hash.add(&sequence.to_be_bytes());
    hash.add(&stored_at.to_be_bytes());
    hash.end()
}

/// The name of a reply: of the event that it answers.
pub fn reply_name(source: &str, id: &str) -> String {
    let mut hash = Hash::new("reply");
    hash.add(source.as_bytes());
    hash.add(id.as_bytes());
    hash.end()
}

/// The name of a dead letter that goes to another topic.
pub fn dead_letter_name(sequence: u64, stored_at: u64) -> String {
    let mut hash = Hash::new("dead letter");
    hash.add(&sequence.to_be_bytes());
    hash.add(&stored_at.to_be_bytes());
    hash.end()
}

/// A topic's key, with which its ingress verifies [`Token`]s.
pub struct TopicKey(hmac::Key);

/// The key of one handler for one topic, derived from the topic's.
pub struct HandlerKey(hmac::Key);

/// Without the key itself.
impl std::fmt::Debug for HandlerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandlerKey")
    }
}

/// A key that is none.
#[derive(Debug, thiserror::Error)]
#[error("not a key of 32 bytes in base64url")]
pub struct BadKey;

/// A verified message id of a handler's own choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    handler_uid: String,
    name: String,
}

impl TopicKey {
    /// From these bytes, which only the operator and the topic's ingress may know.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// From the text in a file.
    ///
    /// # Errors
    /// The text is no key.
    pub fn from_text(text: &str) -> Result<Self, BadKey> {
        Ok(Self::new(&decode_key(text)?))
    }

    /// The text of the key of the handler with this UID.
    pub fn handler_key_text(&self, handler_uid: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.handler_tag(handler_uid))
    }

    /// The message id in a header's value; `None` if no handler of this topic made it.
    pub fn verify(&self, value: &str) -> Option<Token> {
        if value.len() > MAX_TOKEN {
            return None;
        }
        let [handler_uid, name, mac] = value.split('.').collect::<Vec<_>>().try_into().ok()?;
        if handler_uid.is_empty() || name.is_empty() {
            return None;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.handler_tag(handler_uid).as_ref());
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        hmac::verify(&key, name.as_bytes(), &mac).ok()?;
        Some(Token { handler_uid: handler_uid.to_owned(), name: name.to_owned() })
    }

    /// The name of a delayed event with this message id, under which it waits and can be cancelled. Only whoever
    /// published it is told: it cannot be guessed from the event.
    pub fn cancel_key(&self, message_id: &str) -> String {
        let tag = hmac::sign(&self.0, format!("tidegate.io/delayed-events/{message_id}").as_bytes());
        URL_SAFE_NO_PAD.encode(tag)
    }

    fn handler_tag(&self, handler_uid: &str) -> hmac::Tag {
        hmac::sign(&self.0, format!("tidegate.io/message-ids/{handler_uid}").as_bytes())
    }
}

impl HandlerKey {
    /// From the text in a file.
    ///
    /// # Errors
    /// The text is no key.
    pub fn from_text(text: &str) -> Result<Self, BadKey> {
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &decode_key(text)?)))
    }

    /// The value of [`HEADER`] for this name.
    pub fn token(&self, handler_uid: &str, name: &str) -> String {
        let mac = hmac::sign(&self.0, name.as_bytes());
        format!("{handler_uid}.{name}.{}", URL_SAFE_NO_PAD.encode(mac))
    }
}

impl Token {
    /// The UID of the handler that made it.
    pub fn handler_uid(&self) -> &str {
        &self.handler_uid
    }

    /// The message id itself.
    pub fn message_id(&self) -> String {
        let mut hash = Hash::new("handler");
        hash.add(self.handler_uid.as_bytes());
        hash.add(self.name.as_bytes());
        hash.end()
    }
}

/// Whether this has the form of a [`TopicKey::cancel_key`], so that it can be a part of a subject.
pub fn is_cancel_key(text: &str) -> bool {
    text.len() == CANCEL_KEY_LENGTH
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The text of a topic's key, as [`TopicKey::from_text`] reads it.
pub fn key_text(bytes: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode_key(text: &str) -> Result<[u8; 32], BadKey> {
    URL_SAFE_NO_PAD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BadKey)
}

/// A hash of several parts: ids of different kinds, and parts cut differently, never meet.
struct Hash(Sha256);

impl Hash {
    fn new(kind: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.add(kind.as_bytes());
        hash
    }

    fn add(&mut self, part: &[u8]) {
        self.0.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(part);
    }

    fn end(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> Event {
        Event::builder("1", "/s", "t").attribute("datacontenttype", "text/plain").data("x").build().unwrap()
    }

    #[test]
    fn only_the_same_event_is_a_repetition() {
        let of = |change: fn(tidegate_cloudevents::Builder) -> tidegate_cloudevents::Builder| {
            of_content(&change(Event::builder("1", "/s", "t")).build().unwrap())
        };
        let ids = [
            of(|event| event),
            of(|event| event.data("x")),
            of(|event| event.data("y")),
            of(|event| event.data("x").attribute("datacontenttype", "text/plain")),
            of(|event| event.data("").attribute("datacontenttype", "text/plain")),
            of(|event| event.attribute("datacontenttype", "text/plain")),
            of(|event| event.data("x").attribute("subject", "a")),
            of(|event| event.data("x").attribute("subjec", "ta")),
            of_content(&Event::builder("1", "/s", "t2").build().unwrap()),
            of_content(&Event::builder("2", "/s", "t").build().unwrap()),
            of_content(&Event::builder("1", "/s2", "t").build().unwrap()),
            of_publisher("A", "/s", "1"),
            of_publisher("B", "/s", "1"),
            of_publisher("A", "/s1", ""),
        ];
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        let traced = event().with_extension("traceparent", "00-1-2-01").unwrap();
        assert_eq!(of_content(&traced), of_content(&event()), "another try has another trace");
    }

    #[test]
    fn a_dead_letters_id_needs_the_handlers_seed() {
        assert_eq!(of_dead_letter("seed", "u", 7, 1), of_dead_letter("seed", "u", 7, 1));
        for (seed, uid, sequence, stored_at) in
            [("other", "u", 7, 1), ("seed", "v", 7, 1), ("seed", "u", 8, 1), ("seed", "u", 7, 2)]
        {
            assert_ne!(of_dead_letter(seed, uid, sequence, stored_at), of_dead_letter("seed", "u", 7, 1));
        }
    }

    #[test]
    fn a_copy_for_a_retry_is_of_one_event_and_handler() {
        assert_eq!(of_retry("u", 7, 1), of_retry("u", 7, 1));
        for (uid, sequence, stored_at) in [("v", 7, 1), ("u", 8, 1), ("u7", 0, 1), ("u", 7, 2)] {
            assert_ne!(of_retry(uid, sequence, stored_at), of_retry("u", 7, 1));
        }
    }

    #[test]
    fn a_token_is_good_for_its_handler_and_topic_only() {
        let (topic, other) = (TopicKey::new(&[1; 32]), TopicKey::new(&[2; 32]));
        let key = HandlerKey::from_text(&topic.handler_key_text("uid-a")).unwrap();
        let token = key.token("uid-a", &reply_name("/s", "1"));
        let verified = topic.verify(&token).unwrap();
        assert_eq!(verified, topic.verify(&token).unwrap());
        assert!(other.verify(&token).is_none(), "of another topic");
        assert!(topic.verify(&key.token("uid-b", "x")).is_none(), "in the name of another handler");
        let again = topic.verify(&key.token("uid-a", &reply_name("/s", "2"))).unwrap();
        assert_ne!(again.message_id(), verified.message_id());
        assert!(token.len() <= MAX_TOKEN);
        for key in ["", "short", &"A".repeat(44)] {
            assert!(HandlerKey::from_text(key).is_err() && TopicKey::from_text(key).is_err(), "{key}");
        }
        assert!(TopicKey::from_text(&format!("{}\n", key_text(&[1; 32]))).unwrap().verify(&token).is_some());
    }

    #[test]
    fn a_cancel_key_is_of_one_event_and_topic_and_a_token_of_a_subject() {
        let (topic, other) = (TopicKey::new(&[1; 32]), TopicKey::new(&[2; 32]));
        let key = topic.cancel_key("id");
        assert!(is_cancel_key(&key), "{key}");
        assert_eq!(key, topic.cancel_key("id"));
        assert!(key != topic.cancel_key("other") && key != other.cancel_key("id"));
        for text in
            ["", "*", ">", &key[1..], &format!("{key}a"), &format!("{}*", &key[1..]), &format!("{}.", &key[1..])]
        {
            assert!(!is_cancel_key(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_other_text_is_a_token(text in "\\PC{0,300}|[a-z-]{1,40}\\.[A-Za-z0-9_-]{1,43}\\.[A-Za-z0-9_-]{0,43}") {
            prop_assert!(TopicKey::new(&[1; 32]).verify(&text).is_none());
        }
    }
}
