//! How a topic's room for dead letters, retries and attempts is shared among its handlers (pure).
//!
//! Every handler has streams of its own, so that what one of them stores takes nothing from another. All of a topic's
//! handlers have the same share: the whole, a half, a quarter and so on, the largest with which everything fits. In
//! steps of two, so that a handler that comes or goes rarely changes the streams of the others.

use std::collections::HashMap;

use crate::api::StreamConfig;
use crate::budget::CLOSED;
pub use crate::budget::{Budget, Kind};
use crate::consumers::UID;

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

/// A handler that is to have its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer<'a> {
    /// Its name.
    pub handler: &'a str,
    /// Its UID; `None`: it is not known which handler of this name it is.
    pub uid: Option<&'a str>,
}

/// There is no room for the streams of one more handler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the topic has no room for the {what} of one more handler: {streams} handlers have or had such room already, and a share of {share} bytes would not hold a largest event with its headers ({least} bytes)"
)]
pub struct NoShare {
    /// What there is no room for.
    pub what: &'static str,
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
/// The newcomer's share would be too small to be of use. That of a handler that has room for dead letters already never
/// is the reason to change nothing: the answers of a stream show whether it is full.
pub fn plan(budget: &Budget, found: &[Found], newcomer: Option<Newcomer<'_>>) -> Result<Vec<StreamConfig>, NoShare> {
    let is_newcomer = |handler: &str| newcomer.is_some_and(|newcomer| newcomer.handler == handler);
    let joins = newcomer.is_some_and(|newcomer| {
        let dead_letters = Kind::DeadLetters.stream_of(newcomer.handler);
        !found.iter().any(|found| found.config.name == dead_letters && found.is_open())
    });
    let mut wanted = Vec::new();
    for kind in Kind::ALL {
        let streams: Vec<(&str, &Found)> =
            found.iter().filter_map(|found| Some((kind.handler_of(&found.config.name)?, found))).collect();
        let is_open = |handler: &str, found: &Found| found.is_open() || is_newcomer(handler);
        let used = |found: &Found| if kind.keeps_all() { found.used } else { 0 };
        let kept: u64 =
            streams.iter().filter(|(name, found)| !is_open(name, found)).map(|(_, found)| used(found)).sum();
        let mut open: Vec<u64> =
            streams.iter().filter(|(name, found)| is_open(name, found)).map(|(_, found)| used(found)).collect();
        let missing = newcomer.filter(|newcomer| streams.iter().all(|(name, _)| *name != newcomer.handler));
        open.extend(missing.map(|_| 0));
        let share = share(budget.total(kind).saturating_sub(kept), &open);
        if joins && share < budget.least(kind) {
            return Err(NoShare { what: kind.words(), streams: streams.len(), share, least: budget.least(kind) });
        }
        let bytes = i64::try_from(share).unwrap_or(i64::MAX).max(CLOSED + 1);
        wanted.extend(streams.iter().map(|(name, found)| {
            let known = found.config.metadata.get(UID).map(String::as_str);
            let uid = newcomer.filter(|newcomer| newcomer.handler == *name).and_then(|newcomer| newcomer.uid);
            budget.config(kind, name, uid.or(known), if is_open(name, found) { bytes } else { CLOSED })
        }));
        wanted.extend(missing.map(|newcomer| budget.config(kind, newcomer.handler, newcomer.uid, bytes)));
    }
    let before: HashMap<&str, i64> = found.iter().map(|found| (&*found.config.name, found.config.max_bytes)).collect();
    wanted.sort_by_key(|config| before.get(&*config.name).is_none_or(|before| *before <= config.max_bytes));
    Ok(wanted)
}

/// How a stream is that keeps what it has for a handler that is gone.
pub fn closed(budget: &Budget, handler: &str) -> StreamConfig {
    budget.config(Kind::DeadLetters, handler, None, CLOSED)
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
    use std::time::Duration;

    use tidegate_broker_client::layout;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(dead_letters: u64) -> Budget {
        let events = StreamConfig {
            num_replicas: 3,
            duplicate_window: Duration::from_secs(7),
            max_message_size: 1 << 20,
            metadata: Budget::metadata(
                [
                    (Kind::DeadLetters, i64::try_from(dead_letters).unwrap()),
                    (Kind::Retries, i64::try_from(2 * dead_letters).unwrap()),
                    (Kind::Attempts, 4 << 20),
                ],
                1 << 20,
            ),
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
            streams =
                plan(budget, &streams, newcomer(handler)).unwrap().iter().map(|config| found(config, 0)).collect();
        }
        streams
    }

    fn newcomer(handler: &str) -> Option<Newcomer<'_>> {
        Some(Newcomer { handler, uid: Some("u") })
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
        let two = plan(&budget, &one, newcomer("b")).unwrap();
        assert_eq!(two[0].name, layout::dead_letter_stream("a"));
        let half = i64::try_from(32 * MIB).unwrap();
        assert_eq!(bytes(&two, Kind::DeadLetters), [("a".to_owned(), half), ("b".to_owned(), half)]);
        assert_eq!(bytes(&two, Kind::Retries), [("a".to_owned(), 2 * half), ("b".to_owned(), 2 * half)]);
        assert_eq!(bytes(&two, Kind::Attempts), [("a".to_owned(), 2 << 20), ("b".to_owned(), 2 << 20)]);
        assert!(two.iter().all(|config| config.num_replicas == 3));
        let again: Vec<_> = two.iter().map(|config| found(config, 0)).collect();
        let same = plan(&budget, &again, newcomer("b")).unwrap();
        assert_eq!((same.len(), bytes(&same, Kind::DeadLetters)), (6, bytes(&two, Kind::DeadLetters)));
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
        let wanted = plan(&budget, &streams, newcomer("gone")).unwrap();
        assert_eq!(bytes(&wanted, Kind::DeadLetters), [("a".to_owned(), 32 << 20), ("gone".to_owned(), 32 << 20)]);
    }

    #[test]
    fn who_would_have_too_little_is_refused_and_the_others_are_not() {
        // A share must hold one message of 1 MiB.
        let budget = budget(8 * MIB);
        let four = joined(&budget, &["a", "b", "c", "d"]);
        let refused = plan(&budget, &four, newcomer("e")).unwrap_err();
        assert_eq!((refused.streams, refused.share), (4, MIB));
        assert!(refused.to_string().contains("4 handlers"), "{refused}");
        assert!(plan(&budget, &four, newcomer("a")).is_ok(), "it has its share already");
        // The volume is promised to others now: what is there stays, and takes no more.
        let mut small = budget;
        small.dead_letters = MIB;
        let full: Vec<_> = four.iter().map(|stream| found(&stream.config, MIB)).collect();
        let wanted = plan(&small, &full, None).unwrap();
        assert!(bytes(&wanted, Kind::DeadLetters).iter().all(|(_, bytes)| *bytes == CLOSED + 1));
    }

    #[test]
    fn a_stream_of_events_without_a_budget_has_none() {
        assert_eq!(Budget::of(&StreamConfig { max_message_size: 1, ..StreamConfig::default() }), None);
        let torn = StreamConfig {
            metadata: HashMap::from([("tidegate.io/dead-letter-bytes".to_owned(), "many".to_owned())]),
            ..StreamConfig::default()
        };
        assert_eq!(Budget::of(&torn), None);
    }
}
