//! The attempts of an event so far: what is known of them, exactly, whichever pod made them. Pure; [`store`] reads
//! and writes.
//!
//! The broker's own count of deliveries says less: it also counts deliveries that led to no attempt (a drain, a
//! handler that was down). So each failed attempt is put on record before its event goes back to the broker, and
//! the record is read when the event comes again. An attempt that failed because the handler as a whole did is on
//! record like any other, and does not count.

pub mod store;
#[cfg(test)]
mod tests;

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
