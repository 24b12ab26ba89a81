//! The lease of a lane's part of the shelf: a record that is replaced by comparison with its sequence.

use serde::{Deserialize, Serialize};
use tidegate_delivery_core::Tenancy;
use tidegate_wire::nats::Message;

use super::Replacement;
use crate::broker::publish_ack;

/// The status of an answer to a read that found no record.
const NOT_FOUND: u16 = 404;
/// Where the broker says which message it gives.
const SEQUENCE: &str = "Nats-Sequence";

/// The record.
#[derive(Serialize, Deserialize)]
struct LeaseRecord<'a> {
    /// The sidecar process that wrote it.
    owner: &'a str,
    /// Whether it gave up the lease by it.
    free: bool,
}

/// What became of replacing the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is replaced, by the one of this sequence.
    By(u64),
    /// The record is another one, which is to be read.
    Outrun,
}

/// A record of this owner in place of the one with this sequence; 0: where there is none.
pub fn record(owner: &str, free: bool, over: u64) -> Option<Replacement> {
    Replacement::new(over, &LeaseRecord { owner, free })
}

/// What the answer to a new record says; `None`: nothing for sure.
pub fn replaced(answer: &Message) -> Option<Replaced> {
    match publish_ack::sequence(answer) {
        Ok(sequence) => Some(Replaced::By(sequence)),
        Err(error) => error.is_outrun().then_some(Replaced::Outrun),
    }
}

/// What a read of the record says to this owner; `None`: nothing. A record of ours was written by a request whose answer
/// was lost: it is free for us. One that cannot be read is another's.
pub fn found(answer: &Message, owner: &str) -> Option<Tenancy> {
    match answer.status() {
        Some(NOT_FOUND) => Some(Tenancy::Other { sequence: 0, is_free: false }),
        Some(_) => None,
        None => {
            let sequence = answer.headers()?.get(SEQUENCE)?.parse().ok()?;
            let record = serde_json::from_slice::<LeaseRecord<'_>>(answer.payload()).ok();
            let is_free = record.is_some_and(|record| record.free || record.owner == owner);
            Some(Tenancy::Other { sequence, is_free })
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::nats::HeaderBlock;

    use super::*;

    fn body(owner: &str, free: bool) -> Vec<u8> {
        record(owner, free, 0).unwrap().body
    }

    fn read(sequence: &str, record: &[u8]) -> Option<Tenancy> {
        let mut headers = HeaderBlock::new();
        headers.append(SEQUENCE, sequence).unwrap();
        found(&Message::compose("_INBOX.x", None, Some(&headers), record).unwrap(), "me")
    }

    #[test]
    fn a_record_says_whose_the_lease_is() {
        let other = |sequence, is_free| Some(Tenancy::Other { sequence, is_free });
        assert_eq!(read("7", &body("me", false)), other(7, true), "the answer was lost");
        assert_eq!(read("7", &body("another", false)), other(7, false));
        assert_eq!(read("7", &body("another", true)), other(7, true));
        assert_eq!(read("7", b"{}"), other(7, false), "it cannot be read");
        assert_eq!(read("x", &body("another", true)), None);
        let without = Message::compose("_INBOX.x", None, None, &body("me", true)).unwrap();
        assert_eq!(found(&without, "me"), None, "it does not say which");
    }

    #[test]
    fn only_a_refusal_by_comparison_is_one() {
        for (payload, expected) in [
            (r#"{"stream":"attempts_billing","seq":8}"#, Some(Replaced::By(8))),
            (r#"{"error":{"err_code":10071,"description":"wrong last sequence: 5"},"seq":0}"#, Some(Replaced::Outrun)),
            (r#"{"error":{"err_code":10164,"description":"wrong last sequence"},"seq":0}"#, Some(Replaced::Outrun)),
            (r#"{"error":{"err_code":10077,"description":"maximum bytes exceeded"},"seq":0}"#, None),
            ("", None),
        ] {
            let answer = Message::compose("_INBOX.x", None, None, payload.as_bytes()).unwrap();
            assert_eq!(replaced(&answer), expected, "{payload}");
        }
    }
}
