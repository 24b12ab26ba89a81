//! How far the stream is, as publishers heard it, and whether it has lost its end. Pure.
//!
//! What is stored after an acknowledgement has a higher sequence. A new event with a lower one says that the stream went
//! back: a server lost the end of its files, and gives the sequences to other events. The answer that says so is the only
//! trace of it, so it is found here.

use std::time::{Duration, Instant};

use tidegate_broker_client::contract::{LostTail, PROGRESS_PERIOD};

/// A loss is reported again after this long, for an operator that was away.
const REPEAT_PERIOD: Duration = Duration::from_secs(60);

/// What publishers heard of a stream.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: u64,
    /// How often the stream went back.
    losses: u32,
    lost: Option<LostTail>,
    /// Whether something was acknowledged since the last report. What was acknowledged long ago may be lost by now.
    is_new: bool,
    due: Option<Instant>,
}

/// How far the stream was when a message was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    acknowledged: u64,
    losses: u32,
}

impl Progress {
    /// For a message that is sent now.
    pub fn mark(&self) -> Mark {
        Mark { acknowledged: self.acknowledged, losses: self.losses }
    }

    /// A message that was sent at this mark was stored, and not before that. `clock`: seconds since 1970.
    pub fn stored(&mut self, mark: Mark, sequence: u64, now: Instant, clock: impl FnOnce() -> u64) {
        let is_back = sequence <= mark.acknowledged && mark.losses == self.losses;
        if is_back {
            self.losses = self.losses.wrapping_add(1);
            // Others were acknowledged since the mark, as long as the stream was whole.
            self.lost = Some(LostTail { first: sequence, last: self.acknowledged, noticed: clock() });
            (self.acknowledged, self.is_new) = (sequence, true);
            self.due = Some(now);
        } else if sequence > self.acknowledged {
            (self.acknowledged, self.is_new) = (sequence, true);
            self.wait_at_most(now + PROGRESS_PERIOD);
        }
    }

    /// When there is something to report.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What there is to report: the last sequence, if it is new, and what was lost. `None`: nothing yet.
    pub fn report(&mut self, now: Instant) -> Option<(Option<u64>, Option<LostTail>)> {
        self.due.take_if(|due| *due <= now)?;
        self.due = self.lost.map(|_| now + REPEAT_PERIOD);
        let is_new = std::mem::take(&mut self.is_new);
        Some((is_new.then_some(self.acknowledged), self.lost))
    }

    /// The report was not sent.
    pub fn not_reported(&mut self, now: Instant) {
        self.is_new = true;
        self.wait_at_most(now + PROGRESS_PERIOD);
    }

    fn wait_at_most(&mut self, until: Instant) {
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(first: u64, last: u64, noticed: u64) -> Option<LostTail> {
        Some(LostTail { first, last, noticed })
    }

    #[test]
    fn a_stream_that_goes_back_has_lost_what_was_acknowledged() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        let start = progress.mark();
        for sequence in [1, 3, 2, 100] {
            progress.stored(start, sequence, now, || unreachable!());
        }
        let whole = progress.mark();
        progress.stored(whole, 101, now, || unreachable!());
        assert_eq!(progress.report(now), None, "it waits a while");
        assert_eq!(progress.report(now + PROGRESS_PERIOD), Some((Some(101), None)));
        assert_eq!(progress.due(), None);
        // Three were sent at once after the loss, and answered one after the other.
        progress.stored(whole, 91, now, || 7);
        assert_eq!(progress.report(now), Some((Some(91), lost(91, 101, 7))), "at once");
        progress.stored(whole, 92, now, || unreachable!());
        progress.stored(whole, 93, now, || unreachable!());
        assert_eq!(progress.report(now + PROGRESS_PERIOD), Some((Some(93), lost(91, 101, 7))));
        assert_eq!(progress.due(), Some(now + PROGRESS_PERIOD + REPEAT_PERIOD), "an operator may be away");
        let later = now + PROGRESS_PERIOD + REPEAT_PERIOD;
        assert_eq!(progress.report(later), Some((None, lost(91, 101, 7))), "what is old may be gone by now");
        progress.not_reported(now);
        assert_eq!(progress.due(), Some(now + PROGRESS_PERIOD));
        progress.stored(progress.mark(), 50, now, || 9);
        assert_eq!(progress.report(now), Some((Some(50), lost(50, 93, 9))), "another loss");
    }
}
