//! The attempts of an event so far: what is known of them, exactly, whichever pod made them. Pure; [`store`] reads
//! and writes.
//!
//! The broker's own count of deliveries says less: it also counts deliveries that led to no attempt (a drain, a
//! handler that was down). So each failed attempt is put on record before its event goes back to the broker, and
//! the record is read when the event comes again.

pub mod store;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_broker_client::outcomes::single_line;

use crate::settle::outcome::Reason;

/// Of an event's failed attempts this many are kept: the first, and the last of the others.
pub const KEPT: usize = 50;
/// Clocks of two nodes may differ by this much.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);
/// Whatever is on record, no event waits longer for its next attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// The longest error of an attempt, in bytes.
const ERROR_LIMIT: usize = 256;

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// When it failed, RFC 3339.
    pub time: String,
    /// The status of the response, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong: one line, bounded.
    pub error: String,
}

impl Failed {
    /// An attempt that failed at this time.
    pub fn new(time: String, status: Option<u16>, error: &str) -> Self {
        Self { time, status, error: single_line(error, ERROR_LIMIT) }
    }
}

/// What a delivery adds to the record of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt failed.
    Failed(Failed, Next),
    /// The event went back untried.
    Untried,
}

/// What follows an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, not before this moment (milliseconds since 1970), whichever pod makes it.
    NotBefore(i64),
    /// None, for this reason.
    GivenUp(Reason),
}

/// The attempts of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The UID of the handler: another one of the same name counts anew.
    handler: String,
    /// The broker's number of the delivery that was recorded last.
    deliveries: u32,
    /// Failed attempts.
    attempts: u32,
    /// Deliveries that ended without an attempt.
    #[serde(default)]
    untried: u32,
    /// Why there will be no further attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_up: Option<Reason>,
    /// When the next attempt may be made at the earliest, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    /// The first attempt, and the last ones.
    failed: Vec<Failed>,
}

impl Record {
    /// Failed attempts.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Why there will be no further attempt, if that was decided (and only the dead letter is not stored yet).
    pub fn given_up(&self) -> Option<Reason> {
        self.given_up
    }

    /// How long the next attempt has to wait still. An event may come before its time, when it is handed over from one
    /// pod to another. The clocks of two nodes differ somewhat: a short wait is none.
    pub fn wait(&self, now: i64) -> Option<Duration> {
        let wait = Duration::from_millis(u64::try_from(self.not_before?.saturating_sub(now)).ok()?);
        (wait >= CLOCK_TOLERANCE).then_some(wait.min(LONGEST_WAIT))
    }

    /// The first failed attempt and the last ones, in order.
    pub fn failed(&self) -> &[Failed] {
        &self.failed
    }

    /// Deliveries before this one of which nobody said how they ended: the sidecar was killed, or lost the broker.
    pub fn untraced(&self, delivery: u32) -> u32 {
        delivery.saturating_sub(1).saturating_sub(self.attempts).saturating_sub(self.untried)
    }

    /// Whether it speaks of the delivery before this one, so that there can be no newer record.
    fn is_newest_before(&self, delivery: u32) -> bool {
        self.deliveries.saturating_add(1) >= delivery
    }

    /// The record with a change that this delivery made.
    pub fn with(&self, change: &Change, handler: &str, delivery: u32) -> Self {
        let mut next = Self {
            handler: handler.to_owned(),
            // A delivery that was paused for long may be told of late.
            deliveries: self.deliveries.max(delivery),
            ..self.clone()
        };
        match change {
            Change::Failed(failed, follows) => {
                next.attempts = next.attempts.saturating_add(1);
                (next.given_up, next.not_before) = match follows {
                    Next::NotBefore(moment) => (None, Some(*moment)),
                    Next::GivenUp(reason) => (Some(*reason), None),
                };
                next.failed.push(failed.clone());
                if next.failed.len() > KEPT {
                    next.failed.remove(1);
                }
            }
            Change::Untried => next.untried = next.untried.saturating_add(1),
        }
        next
    }

    /// Whether a change is in it already.
    fn has(&self, change: &Change) -> bool {
        match change {
            Change::Failed(failed, _) => self.failed.contains(failed),
            Change::Untried => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: usize) -> Change {
        Change::Failed(
            Failed::new(format!("2026-01-01T00:00:{number:02}Z"), Some(500), "no\r\nway"),
            Next::NotBefore(0),
        )
    }

    fn after(changes: &[Change]) -> Record {
        (1u32..).zip(changes).fold(Record::default(), |record, (delivery, change)| record.with(change, "uid", delivery))
    }

    #[test]
    fn attempts_and_untried_deliveries_are_told_apart() {
        let record = after(&[failed(0), Change::Untried, Change::Untried, failed(3)]);
        assert_eq!((record.attempts(), record.untraced(5)), (2, 0));
        assert_eq!(record.untraced(9), 4, "nobody told of four deliveries");
        assert!(record.is_newest_before(5) && !record.is_newest_before(6));
        assert_eq!(record.failed()[1].error, "no  way");
    }

    #[test]
    fn one_that_was_told_late_does_not_make_the_record_older() {
        let record = Record::default().with(&failed(1), "uid", 7).with(&failed(2), "uid", 3);
        assert!(record.is_newest_before(8));
        assert_eq!(record.attempts(), 2);
    }

    #[test]
    fn the_first_and_the_last_are_kept() {
        let all: Vec<_> = (0..120).map(failed).collect();
        let record = after(&all);
        assert_eq!((record.attempts(), record.failed().len()), (120, KEPT));
        assert!(record.has(&all[0]) && !record.has(&all[1]) && record.has(&all[71]) && record.has(&all[119]));
    }

    #[test]
    fn an_event_that_is_handed_over_waits_for_its_time() {
        let failed =
            |follows| after(&[Change::Failed(Failed::new("t".into(), Some(429), "e"), follows), Change::Untried]);
        let record = failed(Next::NotBefore(100_000));
        for (now, expected) in [(0, Some(100)), (70_000, Some(30)), (99_001, None), (100_000, None), (i64::MAX, None)] {
            assert_eq!(record.wait(now), expected.map(Duration::from_secs), "{now}");
        }
        assert_eq!(failed(Next::NotBefore(i64::MAX)).wait(i64::MIN), Some(LONGEST_WAIT));
        assert_eq!(failed(Next::GivenUp(Reason::Refused)).wait(0), None);
        assert_eq!(Record::default().wait(0), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let refused = Change::Failed(Failed::new("t".into(), None, "e"), Next::GivenUp(Reason::Refused));
        let record = after(&[failed(1), Change::Untried, refused]);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        assert!(json.contains(r#""givenUp":"refused-by-handler""#), "{json}");
    }
}
