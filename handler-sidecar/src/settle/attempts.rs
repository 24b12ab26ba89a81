//! The attempts of an event so far: what is known of them, exactly, whichever pod made them. Pure; [`store`] reads
//! and writes.
//!
//! The broker's own count of deliveries says less: it also counts deliveries that led to no attempt (a drain, a
//! handler that was down). So each failed attempt is put on record before its event goes back to the broker, and
//! the record is read when the event comes again. An attempt that failed because the handler as a whole did is on
//! record like any other, and does not count.

pub mod store;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_broker_client::outcomes::single_line;

use crate::settle::outcome::Reason;

/// Of an event's failed attempts this many are kept: the first, and the last of the others.
pub const KEPT: usize = 50;
/// Clocks of two nodes may differ by this much.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);
/// Where the record does not say how long a wait was to be, it is no longer than this.
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
    /// Whether the handler as a whole failed, so that the attempt does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outage: bool,
}

impl Failed {
    /// An attempt that failed at this time.
    pub fn new(time: String, status: Option<u16>, error: &str) -> Self {
        Self { time, status, error: single_line(error, ERROR_LIMIT), outage: false }
    }

    /// The same attempt, which does not count.
    pub fn in_outage(self) -> Self {
        Self { outage: true, ..self }
    }
}

/// What a delivery adds to the record of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt begins.
    Begun,
    /// An attempt failed.
    Failed(Failed, Next),
    /// The event went back untried.
    Untried,
    /// The same, for the whole wait, because by this pod's clock it has not begun.
    PutOff,
    /// Its key waits for a person to release it, after which it begins as if it had never failed. With the attempt that
    /// failed, if it was one.
    Restarted(Option<Failed>),
}

/// What follows an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt after this wait, not before this moment (milliseconds since 1970), whichever pod makes it.
    NotBefore(i64, Duration),
    /// None, for this reason.
    GivenUp(Reason),
}

/// How long the next attempt has to wait still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// For so long.
    pub left: Duration,
    /// Whether the clock of this pod says that the wait has not begun: it is behind that of the one that wrote.
    pub is_clock_behind: bool,
}

/// The attempts of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The UID of the handler: another one of the same name counts from one.
    handler: String,
    /// When the topic stored the event, in nanoseconds since 1970; an earlier version did not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published_at: Option<u64>,
    /// The broker's number of the delivery that was recorded last.
    deliveries: u32,
    /// Failed attempts that count.
    attempts: u32,
    /// Attempts that failed because the handler as a whole did.
    #[serde(default, skip_serializing_if = "is_zero")]
    outage_attempts: u32,
    /// Deliveries that ended without an attempt.
    #[serde(default)]
    untried: u32,
    /// Why there will be no further attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_up: Option<Reason>,
    /// When the next attempt may be made at the earliest, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    /// How long that is after the attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<u64>,
    /// Whether the event was put off for the whole wait already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    put_off: bool,
    /// The first attempt, and the last ones.
    failed: Vec<Failed>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Record {
    /// The same, of the event that the topic stored at this time.
    pub fn of_event(self, published_at: u64) -> Self {
        Self { published_at: Some(published_at), ..self }
    }

    /// Whether it is of the event that the topic stored at this time, as far as it says.
    fn is_of(&self, published_at: u64) -> bool {
        self.published_at.is_none_or(|recorded| recorded == published_at)
    }

    /// Failed attempts that count.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Failed attempts that do not count, because the handler as a whole failed.
    pub fn outage_attempts(&self) -> u32 {
        self.outage_attempts
    }

    /// Requests that went out for the event.
    pub fn requests(&self) -> u32 {
        self.attempts.saturating_add(self.outage_attempts)
    }

    /// Why there will be no further attempt, if that was decided (and only the dead letter is not stored yet).
    pub fn given_up(&self) -> Option<Reason> {
        self.given_up
    }

    /// The number of the delivery that was recorded last.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// How long the last attempt's wait was to be.
    pub fn asked_wait(&self) -> Option<Duration> {
        self.wait.map(Duration::from_millis)
    }

    /// How long the next attempt has to wait still; `None`: it may be made. An event may come before its time: when it
    /// is handed over from one pod to another, or of the shelf for the first time. The clocks of two nodes differ
    /// somewhat: a short wait is none. Where they differ by more than that, the broker's is what counts: an event waits
    /// once more for as long as was asked for, and then no longer.
    pub fn wait(&self, now: i64) -> Option<Wait> {
        let left = Duration::from_millis(u64::try_from(self.not_before?.saturating_sub(now)).ok()?);
        let asked = self.asked_wait().unwrap_or(LONGEST_WAIT);
        let is_clock_behind = left > asked.saturating_add(CLOCK_TOLERANCE);
        let is_due = left < CLOCK_TOLERANCE || (is_clock_behind && self.put_off);
        (!is_due).then_some(Wait { left: left.min(asked), is_clock_behind })
    }

    /// As JSON in one line, with so many of the attempts that it has no more bytes than `limit`: the first, and the
    /// last of the others.
    ///
    /// # Errors
    /// None that is known.
    pub fn in_one_line(&self, limit: usize) -> serde_json::Result<String> {
        let mut record = self.clone();
        loop {
            // JSON escapes all control characters but this one, which no header can have.
            let line = serde_json::to_string(&record)?.replace('\u{7f}', " ");
            if line.len() <= limit || record.failed.is_empty() {
                return Ok(line);
            }
            record.failed.remove(usize::from(record.failed.len() > 1));
        }
    }

    /// The same, in which no attempt counts.
    pub fn uncounted(self) -> Self {
        Self { attempts: 0, outage_attempts: 0, untried: self.deliveries, given_up: None, ..self }
    }

    /// The status of the answer to the last attempt, if it failed and there was an answer.
    pub fn last_status(&self) -> Option<u16> {
        self.failed.last()?.status
    }

    /// The first failed attempt and the last ones, in order.
    pub fn failed(&self) -> &[Failed] {
        &self.failed
    }

    /// Deliveries before this one of which no one said how they ended: the sidecar was killed, or lost the broker.
    pub fn untraced(&self, delivery: u32) -> u32 {
        delivery.saturating_sub(1).saturating_sub(self.requests()).saturating_sub(self.untried)
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
                let number = if failed.outage { &mut next.outage_attempts } else { &mut next.attempts };
                *number = number.saturating_add(1);
                (next.given_up, next.not_before, next.wait) = match follows {
                    Next::NotBefore(moment, wait) => (None, Some(*moment), u64::try_from(wait.as_millis()).ok()),
                    Next::GivenUp(reason) => (Some(*reason), None, None),
                };
                next.put_off = false;
                next.keep(failed);
            }
            Change::Restarted(failed) => {
                next = Self { not_before: None, wait: None, put_off: false, ..next.uncounted() };
                failed.iter().for_each(|failed| next.keep(failed));
            }
            Change::Begun => {}
            Change::Untried | Change::PutOff => {
                next.untried = next.untried.saturating_add(1);
                next.put_off |= *change == Change::PutOff;
            }
        }
        next
    }

    fn keep(&mut self, failed: &Failed) {
        self.failed.push(failed.clone());
        if self.failed.len() > KEPT {
            self.failed.remove(1);
        }
    }

    /// Whether a change is in it already.
    fn has(&self, change: &Change) -> bool {
        match change {
            Change::Failed(failed, _) | Change::Restarted(Some(failed)) => self.failed.contains(failed),
            Change::Begun | Change::Untried | Change::PutOff | Change::Restarted(None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: usize) -> Change {
        Change::Failed(
            Failed::new(format!("2026-01-01T00:00:{number:02}Z"), Some(500), "no\r\nway"),
            Next::NotBefore(0, Duration::ZERO),
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
    fn an_attempt_in_an_outage_is_on_record_and_does_not_count() {
        let outage = |number| match failed(number) {
            Change::Failed(failed, next) => Change::Failed(failed.in_outage(), next),
            untried => untried,
        };
        let record = after(&[failed(0), outage(1), outage(2), failed(3), Change::Untried]);
        assert_eq!((record.attempts(), record.outage_attempts(), record.requests()), (2, 2, 4));
        assert_eq!(record.untraced(6), 0, "all five deliveries left a trace");
        let marked: Vec<_> = record.failed().iter().map(|failed| failed.outage).collect();
        assert_eq!(marked, [false, true, true, false]);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        assert!(!serde_json::to_string(&after(&[failed(0)])).unwrap().contains("utage"), "what is not is not written");
    }

    #[test]
    fn one_that_begun_and_has_no_end_is_seen() {
        let begun = after(&[failed(0), Change::Begun]);
        assert_eq!((begun.deliveries(), begun.attempts(), begun.untraced(3)), (2, 1, 1));
        let ended = begun.with(&failed(1), "uid", 2);
        assert_eq!((ended.deliveries(), ended.attempts(), ended.untraced(3)), (2, 2, 0));
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
        let record = failed(Next::NotBefore(100_000, Duration::from_secs(100)));
        for (now, expected) in [(0, Some(100)), (70_000, Some(30)), (99_001, None), (100_000, None), (i64::MAX, None)] {
            let wait = |left| Wait { left: Duration::from_secs(left), is_clock_behind: false };
            assert_eq!(record.wait(now), expected.map(wait), "{now}");
        }
        assert_eq!(failed(Next::GivenUp(Reason::Refused)).wait(0), None);
        assert_eq!(Record::default().wait(0), None);
        let old: Record = serde_json::from_str(
            r#"{"handler":"u","deliveries":1,"attempts":1,"notBefore":9223372036854775807,"failed":[]}"#,
        )
        .unwrap();
        assert_eq!(old.wait(i64::MIN).map(|wait| wait.left), Some(LONGEST_WAIT), "of an earlier version");
    }

    /// The clock of the pod that reads is off by up to an hour against that of the one that wrote, or by anything.
    #[test]
    fn a_wait_is_no_longer_than_twice_what_was_asked_for() {
        const HOUR: i64 = 3_600_000;
        for (asked, offset, comes_after, expected) in [
            (60_000, 0, 0, 60_000),
            (60_000, 0, 60_000, 60_000),
            (60_000, -30_000, 60_000, 90_000),
            (60_000, -HOUR, 60_000, 120_000),
            (2 * HOUR, -HOUR, 2 * HOUR, 3 * HOUR),
            (60_000, i64::MIN / 2, 60_000, 120_000),
            // Not before the broker gives it out again.
            (60_000, HOUR, 60_000, 60_000),
            // Handed over to another pod at once.
            (60_000, HOUR, 0, 0),
        ] {
            let wait = Duration::from_millis(u64::try_from(asked).unwrap());
            let mut record = after(&[Change::Failed(Failed::new("t".into(), None, "e"), Next::NotBefore(asked, wait))]);
            // The broker keeps it for as long as it is told to.
            let (mut passed, mut rounds) = (comes_after, 0);
            while let Some(Wait { left, is_clock_behind }) = record.wait(passed + offset) {
                record = record.with(if is_clock_behind { &Change::PutOff } else { &Change::Untried }, "uid", 2);
                passed += i64::try_from(left.as_millis()).unwrap();
                rounds += 1;
                assert!(rounds < 5, "{asked} {offset}");
            }
            assert_eq!(passed, expected, "{asked} {offset}");
        }
    }

    #[test]
    fn a_record_on_a_copy_is_one_line_within_its_bound() {
        let long: Vec<_> = (0..60)
            .map(|number| {
                let failed = Failed::new(number.to_string(), Some(500), &"\"\u{7f}\nö".repeat(90));
                Change::Failed(failed, Next::NotBefore(0, Duration::ZERO))
            })
            .collect();
        let record = after(&long);
        let line = record.in_one_line(8 * 1024).unwrap();
        assert!(line.len() <= 8 * 1024 && !line.chars().any(char::is_control), "{}", line.len());
        let read: Record = serde_json::from_str(&line).unwrap();
        let times: Vec<_> = read.failed().iter().map(|failed| failed.time.parse::<usize>().unwrap()).collect();
        assert!(times.len() > 5 && times[0] == 0 && times[1..].is_sorted() && times.last() == Some(&59), "{times:?}");
        assert_eq!((read.attempts(), read.deliveries()), (60, 60));
        assert_eq!(after(&long[..1]).in_one_line(0).unwrap().matches("\"failed\":[]").count(), 1, "it ends");
    }

    #[test]
    fn an_event_that_was_released_begins_as_if_it_had_never_failed() {
        let last = Failed::new("t".into(), Some(503), "the last one");
        let record = after(&[failed(0), Change::Untried, Change::Begun, Change::Restarted(Some(last.clone()))]);
        assert_eq!((record.attempts(), record.requests(), record.untraced(5)), (0, 0, 0));
        assert_eq!((record.wait(i64::MIN), record.asked_wait(), record.given_up()), (None, None, None));
        assert_eq!(record.failed().last(), Some(&last), "its history is kept");
        assert!(record.has(&Change::Restarted(Some(last))) && record.is_newest_before(5));
        let next = record.with(&failed(5), "uid", 5);
        assert_eq!((next.attempts(), next.untraced(6), next.failed().len()), (1, 0, 3));
        assert_eq!(after(&[failed(0), Change::Restarted(None)]).failed().len(), 1);
    }

    #[test]
    fn in_a_record_of_which_nothing_counts_the_wait_does() {
        let wait = Duration::from_secs(60);
        let record = after(&[Change::Failed(Failed::new("t".into(), None, "e"), Next::NotBefore(60_000, wait))]);
        let uncounted = record.clone().uncounted();
        assert_eq!((uncounted.attempts(), uncounted.untraced(2), uncounted.wait(0)), (0, 0, record.wait(0)));
        assert_eq!((uncounted.deliveries(), uncounted.failed()), (1, record.failed()));
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
