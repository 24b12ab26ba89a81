//! Names inside a topic's account: streams, subjects, consumers, message ids.
//!
//! Every topic has an account of its own on its broker, so the names need not carry the topic.
//!
//! | subject | written by | kept in |
//! |---|---|---|
//! | `events.<partition>.<type…>` | ingress | stream `events` |
//! | `dead-letters.<handler>` | that handler's sidecar | stream `dead-letters` |

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The stream that keeps a topic's events.
pub const EVENT_STREAM: &str = "events";
/// Every event's subject.
pub const EVENT_SUBJECTS: &str = "events.>";
/// The stream that keeps what could not be delivered.
pub const DEAD_LETTER_STREAM: &str = "dead-letters";
/// Every dead letter's subject. One token follows the prefix: the handler.
pub const DEAD_LETTER_SUBJECTS: &str = "dead-letters.*";
/// Virtual partitions of a topic. Part of every stored subject, so it is fixed.
pub const PARTITIONS: u32 = 32;
/// The port of the broker's client listener.
pub const BROKER_PORT: u16 = 4222;

/// The subject of an event: `events.<partition>.<type…>`.
///
/// The type's dots separate tokens, so that a broker filter can name a prefix of it. What NATS forbids
/// or gives a meaning in a token (white space, control characters, `*`, `>`, and an empty token) is
/// written as `%XX`, as is `%` itself: two types never share a subject.
pub fn event_subject(partition: u32, event_type: &str) -> String {
    let mut subject = format!("events.{partition}");
    for token in event_type.split('.') {
        subject.push('.');
        if token.is_empty() {
            subject.push('%');
        }
        for byte in token.bytes() {
            if byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>' | b'%') {
                subject.push(char::from(byte));
            } else {
                subject.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    subject
}

/// The partition, `0..PARTITIONS`, of a partition key: the first four bytes of its SHA-256, big endian,
/// modulo the number of partitions. Fixed for good: what is stored was placed by it.
pub fn partition(key: &str) -> u32 {
    let digest = Sha256::digest(key.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % PARTITIONS
}

/// The message id by which the broker recognises a repeated publish: made from `source` and `id`
/// together, because CloudEvents 1.0 (section 3.1.1) makes only the pair unique.
pub fn message_id(source: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(u64::try_from(source.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(source.as_bytes());
    hash.update(id.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// Where a handler's sidecar sends what could not be delivered.
pub fn dead_letter_subject(handler: &str) -> String {
    format!("dead-letters.{handler}")
}

/// Where pull requests of a consumer of the event stream go.
pub fn pull_subject(consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{EVENT_STREAM}.{consumer}")
}

/// Where the acknowledgements of a consumer of the event stream go.
pub fn acknowledge_subjects(consumer: &str) -> String {
    format!("$JS.ACK.{EVENT_STREAM}.{consumer}.>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_becomes_tokens() {
        assert_eq!(event_subject(7, "com.shop.order.created"), "events.7.com.shop.order.created");
    }

    #[test]
    fn what_nats_gives_a_meaning_is_escaped() {
        assert_eq!(event_subject(0, "a b.*.>.50%"), "events.0.a%20b.%2A.%3E.50%25");
        assert_eq!(event_subject(0, ".a..b."), "events.0.%.a.%.b.%");
        assert_eq!(event_subject(0, "größe"), "events.0.gr%C3%B6%C3%9Fe");
    }

    #[test]
    fn ids_of_different_sources_differ() {
        assert_ne!(message_id("a", "bc"), message_id("ab", "c"));
        assert_eq!(message_id("a", "b"), message_id("a", "b"));
    }

    #[test]
    fn partitions_are_in_range_and_stable() {
        assert!((0..1000).all(|i| partition(&format!("key-{i}")) < PARTITIONS));
        assert_eq!(partition("sensor-1"), partition("sensor-1"));
    }
}
