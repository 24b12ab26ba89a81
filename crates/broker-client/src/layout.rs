//! Names inside a topic's account: streams, subjects, consumers.
//!
//! Every topic has an account of its own on its broker, so the names need not carry the topic. Those in the account of
//! the ingresses, which serve all topics, are in [`ingress`].
//!
//! | subject | written by | kept in |
//! |---|---|---|
//! | `events.<partition>.<type…>` | ingress | stream `events` |
//! | `redrive.<handler>.<partition>.<type…>` | operator, from a dead letter | stream `events` |
//! | `dead-letters.<handler>` | that handler's sidecars | stream `dead-letters_<handler>` |
//! | `attempts.<handler>.<sequence>` | that handler's sidecars | stream `attempts_<handler>`, the last of each subject
//! |
//! | `retries.<handler>.waiting` | that handler's sidecars, with `order: None` | stream `retries_<handler>` |
//! | `attempts.<handler>.lease-<lane>` | the same, with `order: Key`: who delivers what is parked of a lane | the same |
//! | `retries.<handler>.parked.<lane>.<d>.<d>.<key>` | that handler's sidecars, with `order: Key` | stream `retries_<handler>`
//! |
//! | `retries.<handler>.held.<lane>.<d>.<d>.<key>` | the same, where a key waits for a person; the operator removes it | the
//! same, once for each key |
//! | `reports.<handler>` | that handler's sidecars | nothing: the operator listens |
//! | `publish` | publishers over NATS | nothing: the ingress answers |
//!
//! A handler has one consumer of its own name, or, with `order: Key`, one for each lane: `<handler>_<lane>`. With
//! `order: None` there is another of its name in the stream of its retries. No name of Kubernetes has a `_` in it, so
//! none of them can be mistaken for another, nor two streams. A handler of another namespace than its topic's is named by
//! both, `<handler>=<namespace>` ([`handler_name`]), in all of these.

use sha2::{Digest, Sha256};

mod handlers;
pub mod ingress;
mod retries;

pub use self::handlers::{handler_name, handler_named};
pub use self::retries::{
    COPY_SEQUENCE_HEADER, KeySubject, held_key_subjects, held_subject, held_subjects, held_subjects_from, key_digest,
    lease_read_subject, lease_subject, local_retry_delete_subject, local_retry_info_subject, local_retry_read_subject,
    parked_subject, parked_subjects, parked_subjects_from, retry_acknowledge_subjects, retry_delete_subject,
    retry_info_subject, retry_pull_subject, retry_read_subject, waiting_subject,
};

/// The stream that keeps a topic's events.
pub const EVENT_STREAM: &str = "events";
/// Every event's subject.
pub const EVENT_SUBJECTS: &str = "events.>";
/// Every redriven event's subject.
pub const REDRIVE_SUBJECTS: &str = "redrive.>";
/// Every record of attempts: a handler and a sequence follow the prefix.
pub const ATTEMPT_SUBJECTS: &str = "attempts.*.*";
/// Where every record of attempts is asked for: the stream is `*`.
pub const ATTEMPT_READ_SUBJECTS: &str = "$JS.API.DIRECT.GET.*.attempts.*.*";
/// Every copy of an event that waits for its retry: a handler and its place follow the prefix.
pub const RETRY_SUBJECTS: &str = "retries.*.>";
/// Where the messages of every consumer are asked for: stream and consumer are `*`.
pub const PULL_SUBJECTS: &str = "$JS.API.CONSUMER.MSG.NEXT.*.*";
/// Where the messages of every consumer are acknowledged.
pub const ACKNOWLEDGE_SUBJECTS: &str = "$JS.ACK.*.*.>";
/// Where messages of every stream are asked for: the stream is `*`.
pub const READ_SUBJECTS: &str = "$JS.API.STREAM.MSG.GET.*";
/// Where every stream is asked for its state: the stream is `*`.
pub const STREAM_INFO_SUBJECTS: &str = "$JS.API.STREAM.INFO.*";
/// Where messages of every stream are removed.
pub const DELETE_SUBJECTS: &str = "$JS.API.STREAM.MSG.DELETE.*";
/// Where a publisher over NATS sends events, as requests, inside its own account.
pub const PUBLISH_SUBJECT: &str = "publish";
/// Where a handler's sidecars hear of each other, inside the handler's own account.
pub const MEMBER_SUBJECT: &str = "members";
/// Every dead letter's subject. One token follows the prefix: the handler.
pub const DEAD_LETTER_SUBJECTS: &str = "dead-letters.*";
/// The end of the pause of a suspended handler's consumers: no other pause ends then. Only the operator ends it.
pub const SUSPENDED_UNTIL: &str = "9999-01-01T00:00:00Z";
/// Virtual partitions of a topic. Part of every stored subject, so it is fixed.
pub const PARTITIONS: u32 = 32;
/// An event that was passed on this often, as a reply or as a dead letter, is passed on no more.
pub const MAX_HOPS: u32 = 32;
const DEAD_LETTER_PREFIX: &str = "dead-letters_";
const ATTEMPT_PREFIX: &str = "attempts_";
const RETRY_PREFIX: &str = "retries_";
/// The port of the broker's client listener.
pub const BROKER_PORT: u16 = 4222;

/// The subject of an event: `events.<partition>.<type…>`.
///
/// The type's dots separate tokens, so that a broker filter can name a prefix of it. What NATS forbids
/// or gives a meaning in a token (white space, control characters, `*`, `>`, and an empty token) is
/// written as `%XX`, as is `%` itself: two types never share a subject.
pub fn event_subject(partition: u32, event_type: &str) -> String {
    let mut subject = format!("events.{partition}");
    push_tokens(&mut subject, event_type);
    subject
}

/// The subject of an event that is given to one handler again: `redrive.<handler>.<partition>.<type…>`.
pub fn redrive_subject(handler: &str, partition: u32, event_type: &str) -> String {
    let mut subject = format!("redrive.{handler}.{partition}");
    push_tokens(&mut subject, event_type);
    subject
}

/// What an event subject and the subjects of a handler's redriven events have in common after their beginning: the
/// filters for these types (exact, or `prefix.*`; none: all) in these partitions (`None`: all).
///
/// The subjects never overlap, which the broker would refuse: a type that a prefix covers is left out.
pub fn filter_subjects(handler: &str, types: &[String], partitions: Option<&[u32]>) -> Vec<String> {
    let mut tails: Vec<String> = types.iter().map(|wanted| type_filter(wanted)).collect();
    if tails.is_empty() {
        tails.push(".>".to_owned());
    }
    tails.sort_unstable();
    tails.dedup();
    let covered = |tail: &String| {
        tails
            .iter()
            .any(|other| other != tail && other.strip_suffix('>').is_some_and(|prefix| tail.starts_with(prefix)))
    };
    let kept: Vec<&String> = tails.iter().filter(|tail| !covered(tail)).collect();
    let partitions: Vec<String> = match partitions {
        Some(partitions) => partitions.iter().map(u32::to_string).collect(),
        None => vec!["*".to_owned()],
    };
    ["events".to_owned(), format!("redrive.{handler}")]
        .iter()
        .flat_map(|start| partitions.iter().map(move |partition| format!("{start}.{partition}")))
        .flat_map(|start| kept.iter().map(move |tail| format!("{start}{tail}")))
        .collect()
}

/// Whether the filters of [`filter_subjects`] for these types let this one through.
pub fn has_type(types: &[String], event_type: &str) -> bool {
    let matches = |wanted: &String| match wanted.strip_suffix(".*") {
        Some(prefix) => event_type.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')),
        None => wanted == event_type,
    };
    types.is_empty() || types.iter().any(matches)
}

fn type_filter(wanted: &str) -> String {
    let mut tail = String::new();
    match wanted.strip_suffix(".*") {
        Some(prefix) => {
            push_tokens(&mut tail, prefix);
            tail.push_str(".>");
        }
        None => push_tokens(&mut tail, wanted),
    }
    tail
}

fn push_tokens(subject: &mut String, event_type: &str) {
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
}

/// The partition, `0..PARTITIONS`, of a partition key: the first four bytes of its SHA-256, big endian,
/// modulo the number of partitions. Fixed for good: what is stored was placed by it.
pub fn partition(key: &str) -> u32 {
    let digest = Sha256::digest(key.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % PARTITIONS
}

/// The partition of the key with this [`key_digest`], which begins with the same bytes.
pub fn partition_of_digest(digest: u64) -> u32 {
    u32::try_from(digest >> 32).unwrap_or_default() % PARTITIONS
}

/// The partition in an event's subject, which may be a redriven one's; `None`: it is another subject.
pub fn partition_of(subject: &str) -> Option<u32> {
    let mut tokens = subject.split('.');
    match tokens.next()? {
        "events" => {}
        "redrive" => drop(tokens.next()?),
        _ => return None,
    }
    tokens.next()?.parse().ok()
}

/// The lane of a partition; of `lanes` there is at least one.
pub fn lane_of(partition: u32, lanes: u16) -> u16 {
    u16::try_from(partition % u32::from(lanes.max(1))).unwrap_or_default()
}

/// The stream that keeps what could not be delivered to a handler.
pub fn dead_letter_stream(handler: &str) -> String {
    format!("{DEAD_LETTER_PREFIX}{handler}")
}

/// The stream that keeps the failed attempts of a handler's events that are still to be retried.
pub fn attempt_stream(handler: &str) -> String {
    format!("{ATTEMPT_PREFIX}{handler}")
}

/// The stream that keeps a handler's events until their next attempt: its retry shelf.
pub fn retry_stream(handler: &str) -> String {
    format!("{RETRY_PREFIX}{handler}")
}

/// The handler of a [`dead_letter_stream`]; `None`: it is another stream.
pub fn handler_of_dead_letters(stream: &str) -> Option<&str> {
    stream.strip_prefix(DEAD_LETTER_PREFIX)
}

/// The handler of an [`attempt_stream`]; `None`: it is another stream.
pub fn handler_of_attempts(stream: &str) -> Option<&str> {
    stream.strip_prefix(ATTEMPT_PREFIX)
}

/// The handler of a [`retry_stream`]; `None`: it is another stream.
pub fn handler_of_retries(stream: &str) -> Option<&str> {
    stream.strip_prefix(RETRY_PREFIX)
}

/// Where a handler's sidecar sends what could not be delivered.
pub fn dead_letter_subject(handler: &str) -> String {
    format!("dead-letters.{handler}")
}

/// Where a handler's sidecar keeps the failed attempts of the event with this sequence.
pub fn attempt_subject(handler: &str, sequence: &str) -> String {
    format!("attempts.{handler}.{sequence}")
}

/// Where the record of [`attempt_subject`] is asked for (a direct get of the last message of a subject).
pub fn attempt_read_subject(handler: &str, sequence: &str) -> String {
    format!("$JS.API.DIRECT.GET.{}.{}", attempt_stream(handler), attempt_subject(handler, sequence))
}

/// Where a handler's sidecar reports, inside the handler's own account: the account of the ingresses has it as
/// [`ingress::report_subject`], and there the operator hears it.
pub fn report_subject(handler: &str) -> String {
    format!("reports.{handler}")
}

/// The consumer of one lane of a handler.
pub fn lane_consumer(handler: &str, lane: u16) -> String {
    format!("{handler}_{lane}")
}

/// The handler of a consumer.
pub fn handler_of(consumer: &str) -> &str {
    consumer.split_once('_').map_or(consumer, |(handler, _)| handler)
}

/// The partitions of a lane; each partition is in exactly one of `lanes`.
pub fn lane_partitions(lane: u16, lanes: u16) -> Vec<u32> {
    (0..PARTITIONS).filter(|partition| lane_of(*partition, lanes) == lane).collect()
}

/// The group of a lane's consumer, whose pin says who owns the lane.
pub const LANE_GROUP: &str = "owner";

/// Events of a lane delivered and not acknowledged, at most. 64 of them are at work (`AT_WORK` of the sidecar's lanes);
/// the rest is for the first events of keys that fail, behind which the others are parked. All of them are in the
/// memory of the lane's next owner before it starts anything, and the broker keeps some hundred bytes of each.
pub const LANE_WINDOW: u16 = 512;

/// Where a consumer of the event stream is asked for its state.
pub fn info_subject(consumer: &str) -> String {
    format!("$JS.API.CONSUMER.INFO.{EVENT_STREAM}.{consumer}")
}

/// The same inside a handler's account, where the server would answer for itself under `$JS.API`.
pub fn local_info_subject(consumer: &str) -> String {
    format!("tidegate.info.{consumer}")
}

/// Where the owner of a lane gives it up.
pub fn unpin_subject(consumer: &str) -> String {
    format!("$JS.API.CONSUMER.UNPIN.{EVENT_STREAM}.{consumer}")
}

/// The same inside a handler's account.
pub fn local_unpin_subject(consumer: &str) -> String {
    format!("tidegate.unpin.{consumer}")
}

/// Where pull requests of a consumer of the event stream go.
pub fn pull_subject(consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{EVENT_STREAM}.{consumer}")
}

/// Where the acknowledgements of a consumer of the event stream go.
pub fn acknowledge_subjects(consumer: &str) -> String {
    format!("$JS.ACK.{EVENT_STREAM}.{consumer}.>")
}

/// Where something is told of an event of this sequence that a consumer of the event stream waits for, whether or not
/// it came here. The broker looks for the sequence among those that it waits for, and asks of the number of the
/// `delivery` only that it is one of those that are not over (`processNak` of nats-server).
pub fn acknowledge_subject(consumer: &str, sequence: u64, delivery: u64) -> String {
    format!("$JS.ACK.{EVENT_STREAM}.{consumer}.1.{sequence}.{delivery}.0.0")
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
    fn filters_cover_their_types_and_never_overlap() {
        let types = |types: &[&str]| types.iter().map(|wanted| (*wanted).to_owned()).collect::<Vec<_>>();
        let all = filter_subjects("h", &[], None);
        assert_eq!(all, ["events.*.>", "redrive.h.*.>"]);
        let some = filter_subjects("h", &types(&["a.b.c", "a.*", "a.*", "x y"]), Some(&[1, 9]));
        let starts = ["events.1", "events.9", "redrive.h.1", "redrive.h.9"];
        let wanted: Vec<_> =
            starts.iter().flat_map(|start| [format!("{start}.a.>"), format!("{start}.x%20y")]).collect();
        assert_eq!(some, wanted);
        for (event_type, has) in [("a.b", true), ("a", false), ("ab", false), ("x y", true), ("x", false)] {
            assert_eq!(has_type(&types(&["a.*", "x y"]), event_type), has, "{event_type}");
        }
        assert!(has_type(&[], "anything"));
    }

    #[test]
    fn every_partition_is_in_one_lane() {
        for lanes in [1, 3, 8, 32] {
            let mut all: Vec<u32> = (0..lanes).flat_map(|lane| lane_partitions(lane, lanes)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..PARTITIONS).collect::<Vec<_>>(), "{lanes}");
        }
        assert_eq!(handler_of(&lane_consumer("billing-a", 3)), "billing-a");
        assert_eq!(handler_of("billing"), "billing");
        assert_eq!(handler_of_dead_letters(&dead_letter_stream("billing")), Some("billing"));
        assert_eq!(handler_of_attempts(&attempt_stream("billing")), Some("billing"));
        assert_eq!(handler_of_retries(&retry_stream("billing")), Some("billing"));
        for other in [handler_of_attempts, handler_of_dead_letters, handler_of_retries] {
            assert_eq!(other(EVENT_STREAM), None);
        }
    }

    #[test]
    fn partitions_are_in_range_and_stable() {
        assert!((0..1000).all(|i| partition(&format!("key-{i}")) < PARTITIONS));
        assert_eq!(partition("sensor-1"), partition("sensor-1"));
        assert!(
            (0..1000).map(|i| format!("key-{i}")).all(|key| partition_of_digest(key_digest(&key)) == partition(&key))
        );
        assert_eq!(partition_of(&event_subject(31, "a.b")), Some(31));
        assert_eq!(partition_of(&redrive_subject("billing", 7, "a")), Some(7));
        assert_eq!(partition_of("retries.billing.waiting"), None);
    }
}
