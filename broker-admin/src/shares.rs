//! How a topic's room for dead letters and attempts is shared among its handlers (pure).
//!
//! Every handler has streams of its own, so that what one of them stores takes nothing from another. All of a topic's
//! handlers have the same share: the whole, a half, a quarter and so on, the largest with which everything fits. In
//! steps of two, so that a handler that comes or goes rarely changes the streams of the others.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::layout;

use crate::api::{Discard, Retention, Storage, StreamConfig};

/// Far longer than the longest wait between two attempts (an hour).
const ATTEMPT_AGE: Duration = Duration::from_secs(24 * 3600);
/// Records of attempts carry no message id; the broker wants a window that is no longer than they live.
const ATTEMPT_WINDOW: Duration = Duration::from_secs(120);
/// Far larger than the largest record.
const MAX_ATTEMPT_SIZE: i32 = 64 << 10;
/// What the broker's files need for a message besides its bytes, with room to spare.
const MESSAGE_OVERHEAD: u64 = 1 << 10;
/// The bound of a stream that keeps what it has and takes no more: 0 would be none.
const CLOSED: i64 = 1;
/// Where the stream of events carries what is shared among the handlers' streams.
const DEAD_LETTER_BYTES: &str = "tidegate.io/dead-letter-bytes";
const ATTEMPT_BYTES: &str = "tidegate.io/attempt-bytes";

/// What all handlers of a topic may store together, and what their streams have in common. It is on record in the
/// stream of events, so that a handler's streams can be made from what the broker knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of dead letters.
    pub dead_letters: u64,
    /// Bytes of records of attempts.
    pub attempts: u64,
    replicas: usize,
    deduplication_window: Duration,
    /// Bytes of the largest dead letter.
    max_message_size: u64,
}

impl Budget {
    /// What the stream of events says; `None`: it was not made by this version yet.
    pub fn of(events: &StreamConfig) -> Option<Self> {
        let bytes = |name| events.metadata.get(name)?.parse().ok();
        Some(Self {
            dead_letters: bytes(DEAD_LETTER_BYTES)?,
            attempts: bytes(ATTEMPT_BYTES)?,
            replicas: events.num_replicas,
            deduplication_window: events.duplicate_window,
            max_message_size: u64::try_from(events.max_message_size).ok()?,
        })
    }

    /// The metadata of the stream of events.
    pub fn metadata(dead_letters: i64, attempts: i64) -> HashMap<String, String> {
        HashMap::from([
            (DEAD_LETTER_BYTES.to_owned(), dead_letters.to_string()),
            (ATTEMPT_BYTES.to_owned(), attempts.to_string()),
        ])
    }

    /// Do two streams of events carry the same budget?
    pub fn same(one: &StreamConfig, other: &StreamConfig) -> bool {
        [DEAD_LETTER_BYTES, ATTEMPT_BYTES].iter().all(|name| one.metadata.get(*name) == other.metadata.get(*name))
    }

    fn least(&self, kind: Kind) -> u64 {
        match kind {
            Kind::DeadLetters => self.max_message_size.saturating_add(MESSAGE_OVERHEAD),
            Kind::Attempts => u64::from(MAX_ATTEMPT_SIZE.unsigned_abs()) + MESSAGE_OVERHEAD,
        }
    }

    fn total(&self, kind: Kind) -> u64 {
        match kind {
            Kind::DeadLetters => self.dead_letters,
            Kind::Attempts => self.attempts,
        }
    }

    fn config(&self, kind: Kind, handler: &str, max_bytes: i64) -> StreamConfig {
        let common = StreamConfig {
            retention: Retention::Limits,
            storage: Storage::File,
            num_replicas: self.replicas,
            max_bytes,
            ..StreamConfig::default()
        };
        match kind {
            // A dead letter is the last copy there is of an event to be kept: never dropped to make room.
            Kind::DeadLetters => StreamConfig {
                name: layout::dead_letter_stream(handler),
                description: Some("what a Tidegate handler could not handle".to_owned()),
                subjects: vec![layout::dead_letter_subject(handler)],
                discard: Discard::New,
                duplicate_window: self.deduplication_window,
                ..common
            },
            // Of use until the event's next attempt. Without it attempts are counted again: too many, never too few.
            Kind::Attempts => StreamConfig {
                name: layout::attempt_stream(handler),
                description: Some(
                    "failed attempts of a Tidegate handler's events that are still to be retried".to_owned(),
                ),
                subjects: vec![layout::attempt_subject(handler, "*")],
                max_age: ATTEMPT_AGE,
                max_messages_per_subject: 1,
                max_message_size: MAX_ATTEMPT_SIZE,
                duplicate_window: ATTEMPT_WINDOW,
                discard: Discard::Old,
                allow_direct: true,
                ..common
            },
        }
    }
}

/// What a handler's stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What could not be delivered.
    DeadLetters,
    /// Records of failed attempts.
    Attempts,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::DeadLetters, Self::Attempts];

    /// The handler of a stream of this kind; `None`: it is another stream.
    pub fn handler_of(self, stream: &str) -> Option<&str> {
        match self {
            Self::DeadLetters => layout::handler_of_dead_letters(stream),
            Self::Attempts => layout::handler_of_attempts(stream),
        }
    }

    /// The stream of this kind of a handler.
    pub fn stream_of(self, handler: &str) -> String {
        match self {
            Self::DeadLetters => layout::dead_letter_stream(handler),
            Self::Attempts => layout::attempt_stream(handler),
        }
    }
}

/// A stream that there is.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it is configured.
    pub config: StreamConfig,
    /// Bytes that it keeps.
    pub used: u64,
}

impl Found {
    /// Does it take anything?
    pub fn is_open(&self) -> bool {
        self.config.max_bytes != CLOSED
    }
}

/// There is no room for the streams of one more handler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the topic's volume has no room for the dead letters of one more handler: {streams} handlers have or had such room already, and a share of {share} bytes would not hold a largest event with its headers ({least} bytes)"
)]
pub struct NoShare {
    /// Streams that there are.
    pub streams: usize,
    /// Bytes of a share, with one more.
    pub share: u64,
    /// Bytes that a share must have.
    pub least: u64,
}

/// How the handlers' streams must be, those first that become smaller: all together are never promised more than before
/// or after. With `newcomer`, its streams are among them.
///
/// # Errors
/// The newcomer's share would be too small to be of use. The others' never is the reason to change nothing: they are
/// there, and the answers of a stream show whether it is full.
pub fn plan(budget: &Budget, found: &[Found], newcomer: Option<&str>) -> Result<Vec<StreamConfig>, NoShare> {
    let mut wanted = Vec::new();
    for kind in Kind::ALL {
        let streams: Vec<(&str, &Found)> =
            found.iter().filter_map(|found| Some((kind.handler_of(&found.config.name)?, found))).collect();
        let is_open = |handler: &str, found: &Found| found.is_open() || newcomer == Some(handler);
        // What is too much in a stream of attempts goes at once, so only dead letters take more than their share.
        let used = |found: &Found| if kind == Kind::DeadLetters { found.used } else { 0 };
        let kept: u64 =
            streams.iter().filter(|(name, found)| !is_open(name, found)).map(|(_, found)| used(found)).sum();
        let mut open: Vec<u64> =
            streams.iter().filter(|(name, found)| is_open(name, found)).map(|(_, found)| used(found)).collect();
        let missing = newcomer.filter(|newcomer| streams.iter().all(|(name, _)| name != newcomer));
        open.extend(missing.map(|_| 0));
        let share = share(budget.total(kind).saturating_sub(kept), &open);
        let joins = newcomer.is_some_and(|newcomer| {
            streams.iter().find(|(name, _)| *name == newcomer).is_none_or(|(_, found)| !found.is_open())
        });
        if joins && share < budget.least(kind) {
            return Err(NoShare { streams: streams.len(), share, least: budget.least(kind) });
        }
        let bytes = i64::try_from(share).unwrap_or(i64::MAX).max(CLOSED + 1);
        wanted.extend(
            streams
                .iter()
                .map(|(name, found)| budget.config(kind, name, if is_open(name, found) { bytes } else { CLOSED })),
        );
        wanted.extend(missing.map(|handler| budget.config(kind, handler, bytes)));
    }
    let before: HashMap<&str, i64> = found.iter().map(|found| (&*found.config.name, found.config.max_bytes)).collect();
    wanted.sort_by_key(|config| before.get(&*config.name).is_none_or(|before| *before <= config.max_bytes));
    Ok(wanted)
}

/// How a stream is that keeps what it has for a handler that is gone.
pub fn closed(budget: &Budget, handler: &str) -> StreamConfig {
    budget.config(Kind::DeadLetters, handler, CLOSED)
}

/// The largest of `total`, a half of it, a quarter … with which `total` suffices for these streams, which keep so many
/// bytes already and may keep a share each.
fn share(total: u64, used: &[u64]) -> u64 {
    let mut share = total;
    let fits = |share: u64| {
        let needed = used.iter().map(|used| u128::from(*used.max(&share))).sum::<u128>();
        needed <= u128::from(total)
    };
    while share > 0 && !fits(share) {
        share /= 2;
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(dead_letters: u64) -> Budget {
        let events = StreamConfig {
            num_replicas: 3,
            duplicate_window: Duration::from_secs(7),
            max_message_size: 1 << 20,
            metadata: Budget::metadata(i64::try_from(dead_letters).unwrap(), 4 << 20),
            ..StreamConfig::default()
        };
        Budget::of(&events).unwrap()
    }

    fn found(config: &StreamConfig, used: u64) -> Found {
        Found { config: config.clone(), used }
    }

    /// What a handler after the other makes of it.
    fn joined(budget: &Budget, handlers: &[&str]) -> Vec<Found> {
        let mut streams = Vec::new();
        for handler in handlers {
            streams = plan(budget, &streams, Some(handler)).unwrap().iter().map(|config| found(config, 0)).collect();
        }
        streams
    }

    fn bytes(configs: &[StreamConfig], kind: Kind) -> Vec<(String, i64)> {
        let of = |config: &StreamConfig| Some((kind.handler_of(&config.name)?.to_owned(), config.max_bytes));
        let mut bytes: Vec<_> = configs.iter().filter_map(of).collect();
        bytes.sort();
        bytes
    }

    #[test]
    fn a_share_is_a_half_of_a_half() {
        for (used, expected) in [
            (vec![0], 64),
            (vec![64], 64),
            (vec![0, 0], 32),
            (vec![0, 0, 0], 16),
            (vec![0; 4], 16),
            (vec![0; 5], 8),
            // The first had all of it before the second came.
            (vec![40, 0], 16),
            (vec![63, 0], 1),
            (vec![64, 0], 0),
            (vec![65], 0),
            (vec![], 64),
        ] {
            assert_eq!(share(64, &used), expected, "{used:?}");
        }
        assert_eq!(share(u64::MAX, &[u64::MAX, u64::MAX]), 0);
    }

    /// Whatever the streams keep, no more is promised than there is, and all that are open have the same.
    #[test]
    fn what_is_promised_fits() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let total = random.u64(1..1 << 40);
            let count = random.usize(0..40);
            let mut left = total;
            let used: Vec<u64> = (0..count)
                .map(|_| {
                    let used = random.u64(0..=left);
                    left -= used;
                    used
                })
                .collect();
            let share = share(total, &used);
            let most: u128 = used.iter().map(|used| u128::from(*used.max(&share))).sum();
            assert!(most <= u128::from(total), "seed {seed}");
            let doubled: u128 = used.iter().map(|used| u128::from(*used.max(&(share * 2 + 1)))).sum();
            assert!(
                share == total || doubled > u128::from(total),
                "seed {seed}: {share} of {total} is not the largest"
            );
        }
    }

    #[test]
    fn who_comes_makes_the_others_smaller_first() {
        let budget = budget(64 * MIB);
        let one = joined(&budget, &["a"]);
        let two = plan(&budget, &one, Some("b")).unwrap();
        assert_eq!(two[0].name, layout::dead_letter_stream("a"));
        let half = i64::try_from(32 * MIB).unwrap();
        assert_eq!(bytes(&two, Kind::DeadLetters), [("a".to_owned(), half), ("b".to_owned(), half)]);
        assert_eq!(bytes(&two, Kind::Attempts), [("a".to_owned(), 2 << 20), ("b".to_owned(), 2 << 20)]);
        assert!(two.iter().all(|config| config.num_replicas == 3));
        let again: Vec<_> = two.iter().map(|config| found(config, 0)).collect();
        let same = plan(&budget, &again, Some("b")).unwrap();
        assert_eq!((same.len(), bytes(&same, Kind::DeadLetters)), (4, bytes(&two, Kind::DeadLetters)));
    }

    #[test]
    fn what_a_gone_handler_left_takes_its_bytes_and_no_share() {
        let budget = budget(64 * MIB);
        let mut streams = joined(&budget, &["a"]);
        streams.push(found(&closed(&budget, "gone"), 10 * MIB));
        let wanted = plan(&budget, &streams, None).unwrap();
        // 54 MiB are left, all of which are for the one that is there.
        assert_eq!(bytes(&wanted, Kind::DeadLetters), [("a".to_owned(), 54 << 20), ("gone".to_owned(), CLOSED)]);
        // It comes back, and has a share again.
        let wanted = plan(&budget, &streams, Some("gone")).unwrap();
        assert_eq!(bytes(&wanted, Kind::DeadLetters), [("a".to_owned(), 32 << 20), ("gone".to_owned(), 32 << 20)]);
    }

    #[test]
    fn who_would_have_too_little_is_refused_and_the_others_are_not() {
        // A share must hold one message of 1 MiB.
        let budget = budget(8 * MIB);
        let four = joined(&budget, &["a", "b", "c", "d"]);
        let refused = plan(&budget, &four, Some("e")).unwrap_err();
        assert_eq!((refused.streams, refused.share), (4, MIB));
        assert!(refused.to_string().contains("4 handlers"), "{refused}");
        assert!(plan(&budget, &four, Some("a")).is_ok(), "it has its share already");
        // The volume is promised to others now: what is there stays, and takes no more.
        let small = Budget { dead_letters: MIB, ..budget };
        let full: Vec<_> = four.iter().map(|stream| found(&stream.config, MIB)).collect();
        let wanted = plan(&small, &full, None).unwrap();
        assert!(bytes(&wanted, Kind::DeadLetters).iter().all(|(_, bytes)| *bytes == CLOSED + 1));
    }

    #[test]
    fn a_stream_of_events_without_a_budget_has_none() {
        assert_eq!(Budget::of(&StreamConfig { max_message_size: 1, ..StreamConfig::default() }), None);
        let torn = StreamConfig {
            metadata: HashMap::from([(DEAD_LETTER_BYTES.to_owned(), "many".to_owned())]),
            ..StreamConfig::default()
        };
        assert_eq!(Budget::of(&torn), None);
    }
}
