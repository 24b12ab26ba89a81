//! Names of a handler's retries: what waits on its shelf, which keys are parked there, and who delivers them.

use sha2::{Digest, Sha256};

use super::{attempt_read_subject, attempt_subject, retry_stream};

/// The header of a copy of an event on the shelf that has the event's sequence in the topic.
pub const COPY_SEQUENCE_HEADER: &str = "Tidegate-Sequence";

/// Where a handler's sidecar puts an event until its next attempt, with `order: None`.
pub fn waiting_subject(handler: &str) -> String {
    format!("retries.{handler}.waiting")
}

/// Where a handler's sidecar puts an event behind a failing one of its key, with `order: Key`. `key` is the
/// [`key_digest`] of the partition key.
pub fn parked_subject(handler: &str, lane: u16, key: u64) -> String {
    format!("retries.{handler}.parked.{lane}.{}", key_tokens(key))
}

/// A key, after its first two digits: a server can be asked for the subjects of a part of the keys, but has to be told
/// the whole of each token.
fn key_tokens(key: u64) -> String {
    format!("{:x}.{:x}.{key:016x}", key >> 60, (key >> 56) & 0xf)
}

/// All [`parked_subject`]s of a lane (`None`: of all lanes).
pub fn parked_subjects(handler: &str, lane: Option<u16>) -> String {
    format!("retries.{handler}.parked.{}.*.*.*", any(lane))
}

/// The [`parked_subject`]s of a lane whose keys begin with these hexadecimal digits, two at most.
pub fn parked_subjects_from(handler: &str, lane: u16, digits: &[u8]) -> String {
    format!("retries.{handler}.parked.{lane}.{}", tokens_from(digits))
}

fn any(lane: Option<u16>) -> String {
    lane.map_or_else(|| "*".to_owned(), |lane| lane.to_string())
}

fn tokens_from(digits: &[u8]) -> String {
    match digits {
        [] => "*.*.*".to_owned(),
        [first] => format!("{first:x}.*.*"),
        [first, second, ..] => format!("{first:x}.{second:x}.*"),
    }
}

/// Where a sidecar puts it on record that a key waits for a person to release it, once for each key. Who removes that
/// message releases the key.
pub fn held_subject(handler: &str, lane: u16, key: u64) -> String {
    format!("retries.{handler}.held.{lane}.{}", key_tokens(key))
}

/// All [`held_subject`]s of a lane (`None`: of all lanes).
pub fn held_subjects(handler: &str, lane: Option<u16>) -> String {
    format!("retries.{handler}.held.{}.*.*.*", any(lane))
}

/// The [`held_subject`]s of a lane whose keys begin with these hexadecimal digits, two at most.
pub fn held_subjects_from(handler: &str, lane: u16, digits: &[u8]) -> String {
    format!("retries.{handler}.held.{lane}.{}", tokens_from(digits))
}

/// The [`held_subject`] of a key, whatever its lane is.
pub fn held_key_subjects(handler: &str, key: u64) -> String {
    format!("retries.{handler}.held.*.{}", key_tokens(key))
}

/// What a [`parked_subject`] or a [`held_subject`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeySubject {
    /// The key's lane.
    pub lane: u16,
    /// The key, as its digest.
    pub key: u64,
    /// Whether it says that the key is held; if not, that something is parked.
    pub is_held: bool,
}

impl KeySubject {
    /// Reads a subject; `None`: it is not one of these two of this handler.
    pub fn read(handler: &str, subject: &str) -> Option<Self> {
        let rest = subject.strip_prefix("retries.")?.strip_prefix(handler)?.strip_prefix('.')?;
        let mut tokens = rest.split('.');
        let is_held = match tokens.next()? {
            "parked" => false,
            "held" => true,
            _ => return None,
        };
        let (lane, key) = (tokens.next()?.parse().ok()?, u64::from_str_radix(tokens.nth(2)?, 16).ok()?);
        let read = Self { lane, key, is_held };
        // Only as it is written: a number can be written in other ways.
        (read.subject(handler) == subject).then_some(read)
    }

    /// The subject.
    pub fn subject(self, handler: &str) -> String {
        let Self { lane, key, is_held } = self;
        if is_held { held_subject(handler, lane, key) } else { parked_subject(handler, lane, key) }
    }
}

/// The record of the lease of a lane's part of the shelf: who delivers what is parked there. Among the records of
/// attempts, with which it shares the rights, and which are named by numbers.
pub fn lease_subject(handler: &str, lane: u16) -> String {
    attempt_subject(handler, &format!("lease-{lane}"))
}

/// Where the record of [`lease_subject`] is asked for, as that of [`attempt_subject`].
pub fn lease_read_subject(handler: &str, lane: u16) -> String {
    attempt_read_subject(handler, &format!("lease-{lane}"))
}

/// The number that stands for a partition key in a subject: the first eight bytes of its SHA-256, big endian. Fixed for
/// good, as [`partition`] is. Two keys of one number would be parked together.
pub fn key_digest(key: &str) -> u64 {
    let digest = Sha256::digest(key.as_bytes());
    u64::from_be_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
}

/// Where pull requests of the consumer of a handler's retries go.
pub fn retry_pull_subject(handler: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{}.{handler}", retry_stream(handler))
}

/// Where the acknowledgements of that consumer go.
pub fn retry_acknowledge_subjects(handler: &str) -> String {
    format!("$JS.ACK.{}.{handler}.>", retry_stream(handler))
}

/// Where messages of a handler's retries are asked for; the request says which, for example
/// `{"seq":1,"next_by_subj":"…"}`. The stream's leader answers: with a direct get (ADR-31) any server of the stream
/// does, which may not know of the last ones.
pub fn retry_read_subject(handler: &str) -> String {
    format!("$JS.API.STREAM.MSG.GET.{}", retry_stream(handler))
}

/// The same inside a handler's account, where the server would answer for itself under `$JS.API`.
pub fn local_retry_read_subject(handler: &str) -> String {
    format!("tidegate.read.{}", retry_stream(handler))
}

/// Where a message of a handler's retries is removed (`{"seq":1,"no_erase":true}`).
pub fn retry_delete_subject(handler: &str) -> String {
    format!("$JS.API.STREAM.MSG.DELETE.{}", retry_stream(handler))
}

/// The same inside a handler's account, where the server would answer for itself under `$JS.API`.
pub fn local_retry_delete_subject(handler: &str) -> String {
    format!("tidegate.delete.{}", retry_stream(handler))
}

/// Where the state of a handler's retries is asked for; the request says of which subjects (`{"subjects_filter":"…"}`),
/// and the answer names each and counts its messages.
pub fn retry_info_subject(handler: &str) -> String {
    format!("$JS.API.STREAM.INFO.{}", retry_stream(handler))
}

/// The same inside a handler's account, where the server would answer for itself under `$JS.API`.
pub fn local_retry_info_subject(handler: &str) -> String {
    format!("tidegate.list.{}", retry_stream(handler))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored under these names outlives the version that stored it.
    #[test]
    fn a_key_is_parked_under_the_beginning_of_its_digest() {
        assert_eq!(key_digest("sensor-1"), 0x75fc_ce45_06e2_b49c);
        assert_eq!(parked_subject("billing", 3, 0xab), "retries.billing.parked.3.0.0.00000000000000ab");
        assert_eq!(parked_subject("billing", 3, u64::MAX), "retries.billing.parked.3.f.f.ffffffffffffffff");
        assert_eq!(parked_subjects("billing", Some(3)), "retries.billing.parked.3.*.*.*");
        assert_eq!(parked_subjects("billing", None), "retries.billing.parked.*.*.*.*");
    }

    #[test]
    fn keys_are_asked_for_by_their_first_digits() {
        for (digits, parked, held) in [
            (&[][..], "retries.billing.parked.3.*.*.*", "retries.billing.held.3.*.*.*"),
            (&[0xc], "retries.billing.parked.3.c.*.*", "retries.billing.held.3.c.*.*"),
            (&[0, 0xf], "retries.billing.parked.3.0.f.*", "retries.billing.held.3.0.f.*"),
        ] {
            let (parked_from, held_from) =
                (parked_subjects_from("billing", 3, digits), held_subjects_from("billing", 3, digits));
            assert_eq!((parked_from.as_str(), held_from.as_str()), (parked, held), "{digits:?}");
        }
        assert_eq!(
            parked_subject("billing", 3, 0xcf00_0000_0000_00ab),
            "retries.billing.parked.3.c.f.cf000000000000ab"
        );
    }

    #[test]
    fn the_subject_of_a_key_is_read_as_it_is_written() {
        assert_eq!(held_subject("billing", 3, 0xab), "retries.billing.held.3.0.0.00000000000000ab");
        assert_eq!(held_subjects("billing", Some(3)), "retries.billing.held.3.*.*.*");
        assert_eq!(held_subjects("billing", None), "retries.billing.held.*.*.*.*");
        assert_eq!(held_key_subjects("billing", 0xab), "retries.billing.held.*.0.0.00000000000000ab");
        assert_eq!(lease_subject("billing", 3), "attempts.billing.lease-3");
        for is_held in [false, true] {
            for (lane, key) in [(0, 0), (31, 0xab), (u16::MAX, u64::MAX)] {
                let all = KeySubject { lane, key, is_held };
                assert_eq!(KeySubject::read("billing", &all.subject("billing")), Some(all));
                assert_eq!(KeySubject::read("bill", &all.subject("billing")), None);
            }
        }
        for other in [
            "retries.billing.waiting",
            "retries.billing.kept.3.0.0.00000000000000ab",
            "retries.billing.held.3.00000000000000ab",
            "retries.billing.held.3.0.0.ab",
            "retries.billing.held.3.0.1.00000000000000ab",
            "retries.billing.held.03.0.0.00000000000000ab",
            "retries.billing.held.3.0.0.+0000000000000ab",
            "retries.billing.held.3.0.0.00000000000000AB",
            "retries.billing.held.3.0.0.00000000000000ab.1",
            "retries.billing.held.70000.0.0.00000000000000ab",
            "retries.billing.held.3",
            "attempts.billing.lease-3",
            "",
        ] {
            assert_eq!(KeySubject::read("billing", other), None, "{other}");
        }
    }
}
