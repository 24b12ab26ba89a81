//! Notices that events wait, that they could be delivered, and that nothing is started.

use crate::event::Moment;

/// So many times the acknowledgement wait is too long: by then whatever somebody else had has come back.
const WAITS: Moment = 3;

/// The watch over one source of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watchdog {
    ack_wait: Moment,
    /// When something was started, or there was a reason not to.
    since: Moment,
    asked: Moment,
    /// Whether events were seen to wait since then.
    events_wait: bool,
}

impl Watchdog {
    /// One that has just seen something start.
    pub fn new(ack_wait: Moment, now: Moment) -> Self {
        Self { ack_wait, since: now, asked: now, events_wait: false }
    }

    /// Something is started, or there is a reason not to.
    pub fn reset(&mut self, now: Moment) {
        *self = Self::new(self.ack_wait, now);
    }

    /// Whether it is time to ask if events wait; it is then taken as asked.
    pub fn ask(&mut self, now: Moment) -> bool {
        let due = now >= self.asked + self.ack_wait;
        if due {
            self.asked = now;
        }
        due
    }

    /// How many events wait; `None`: nothing is known, which is the broker's trouble.
    pub fn answered(&mut self, now: Moment, waiting: Option<u64>) {
        match waiting {
            None | Some(0) => self.reset(now),
            Some(_) => self.events_wait = true,
        }
    }

    /// Whether only a restart is left.
    pub fn is_stalled(&self, now: Moment) -> bool {
        self.events_wait && now >= self.since + WAITS * self.ack_wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Moment = 30_000;

    #[derive(Clone, Copy)]
    enum Seen {
        Nothing,
        Start,
        Answer(Option<u64>),
    }

    #[test]
    fn only_events_that_wait_for_long_are_a_stall() {
        use Seen::{Answer, Nothing, Start};
        let wait = Answer(Some(7));
        for (what, seen, stalled) in [
            ("events wait", vec![(30, wait), (60, wait), (90, wait)], true),
            ("not for long enough yet", vec![(30, wait), (60, wait), (89, wait)], false),
            ("it is not known that events wait", vec![(90, Nothing), (500, Nothing)], false),
            ("none wait", vec![(30, wait), (60, Answer(Some(0))), (90, wait), (120, wait)], false),
            ("the broker does not answer", vec![(30, wait), (60, Answer(None)), (90, wait), (120, wait)], false),
            ("one was started", vec![(30, wait), (60, Start), (90, wait), (120, wait)], false),
            ("one was started long ago", vec![(30, wait), (60, Start), (90, wait), (120, wait), (150, wait)], true),
        ] {
            let origin = 7;
            let mut watchdog = Watchdog::new(ACK_WAIT, origin);
            let mut now = origin;
            for (second, seen) in seen {
                now = origin + second * 1000;
                match seen {
                    Nothing => {}
                    Start => watchdog.reset(now),
                    Answer(waiting) => watchdog.answered(now, waiting),
                }
            }
            assert_eq!(watchdog.is_stalled(now), stalled, "{what}");
        }
    }

    #[test]
    fn it_asks_once_in_a_while() {
        let origin = 7;
        let mut watchdog = Watchdog::new(ACK_WAIT, origin);
        let asks: Vec<u64> = (0u64..100).filter(|second| watchdog.ask(origin + second * 1000)).collect();
        assert_eq!(asks, [30, 60, 90]);
        watchdog.reset(origin + 100_000);
        assert!(!watchdog.ask(origin + 120_000));
    }
}
