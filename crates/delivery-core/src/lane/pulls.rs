//! The open pulls of a lane, and the pin under which they are served. Pure.

use super::timing::LaneTiming;
use crate::event::Moment;
use crate::exchange::Pin;

/// A pull request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pull {
    number: u64,
    sent: Moment,
    left: u32,
    pin: Option<Pin>,
    /// Whether it was sent over a connection that is lost: nothing more comes but what is here already.
    is_lost: bool,
}

/// The pulls that may still bring something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pulls {
    open: Vec<Pull>,
    last: u64,
    pin: Option<Pin>,
    refused: u32,
    not_before: Moment,
}

/// What an arriving event says about the pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArrivalPin {
    /// It came under our pin, by a pull that was sent at this moment.
    Ours(Moment),
    /// So it did, and the pin is new.
    New(Moment),
    /// It came under a pin that is not ours (any more), or by a pull that was over: when that was sent, if it is
    /// still known.
    Late(Option<Moment>),
}

impl Pulls {
    /// An event came by this pull, under this pin.
    pub fn served(&mut self, number: u64, pin: &Pin) -> ArrivalPin {
        let Some(pull) = self.open.iter_mut().find(|pull| pull.number == number) else { return ArrivalPin::Late(None) };
        let sent = pull.sent;
        pull.left = pull.left.saturating_sub(1);
        let first = pull.pin.is_none();
        let fits = pull.pin.get_or_insert_with(|| pin.clone()) == pin;
        self.open.retain(|pull| pull.left > 0);
        self.refused = 0;
        if !fits || (!first && self.pin.as_ref() != Some(pin)) {
            return ArrivalPin::Late(Some(sent));
        }
        if self.pin.as_ref() == Some(pin) {
            return ArrivalPin::Ours(sent);
        }
        self.pin = Some(pin.clone());
        ArrivalPin::New(sent)
    }

    /// The broker ended this pull in good order.
    pub fn ended(&mut self, number: u64) {
        self.open.retain(|pull| pull.number != number);
    }

    /// The broker cannot serve it at the moment.
    pub fn refused(&mut self, number: u64, terms: &LaneTiming, now: Moment) {
        self.ended(number);
        self.not_before = self.not_before.max(now + terms.pause(self.refused));
        self.refused = self.refused.saturating_add(1);
    }

    /// None is sent before this moment, unless there is a new connection.
    pub fn rest_until(&mut self, moment: Moment) {
        self.not_before = self.not_before.max(moment);
    }

    /// The broker says that this pull's pin is not in force. Whether it was ours.
    pub fn wrong_pin(&mut self, number: u64) -> bool {
        let pull = self.open.iter().find(|pull| pull.number == number);
        let ours = pull.is_some_and(|pull| pull.pin.is_some() && pull.pin == self.pin);
        self.ended(number);
        if ours {
            self.pin = None;
        }
        ours
    }

    /// Our pin, as far as we know.
    pub fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Gives the pin up; whether there was one.
    pub fn leave(&mut self) -> bool {
        self.pin.take().is_some()
    }

    /// There is a new connection. What came over the old one may still be taken in.
    pub fn disconnected(&mut self) {
        self.open.iter_mut().for_each(|pull| pull.is_lost = true);
        (self.refused, self.not_before) = (0, 0);
    }

    /// The pull of so many events to send now, if any: its number and its pin.
    ///
    /// With a pin, there is always one that is young; without, one that waits for it. `is_full`: no more than that.
    pub fn due(&mut self, terms: &LaneTiming, now: Moment, batch: u32, is_full: bool) -> Option<(u64, Option<Pin>)> {
        // One whose end the broker did not tell; what it brought would have no lease any more.
        self.open.retain(|pull| now < pull.sent + terms.ack_wait.max(terms.pull_expires));
        let alive = |pull: &&Pull| !pull.is_lost && pull.pin == self.pin && now < pull.sent + terms.pull_expires;
        let left: u32 = self.open.iter().filter(alive).map(|pull| pull.left).sum();
        let youngest = self.open.iter().filter(alive).map(|pull| pull.sent).max();
        let old = self.pin.is_some() && youngest.is_some_and(|sent| now >= sent + terms.pull_every);
        let enough = youngest.is_some() && (self.pin.is_none() || is_full || left > batch / 2);
        if now < self.not_before || (enough && !old) {
            return None;
        }
        self.last += 1;
        self.open.push(Pull { number: self.last, sent: now, left: batch, pin: self.pin.clone(), is_lost: false });
        Some((self.last, self.pin.clone()))
    }

    /// When the next pull is due.
    pub fn wake_at(&self, terms: &LaneTiming, now: Moment) -> Moment {
        let ours = self.open.iter().filter(|pull| !pull.is_lost && pull.pin == self.pin).map(|pull| pull.sent).max();
        let after = if self.pin.is_some() { terms.pull_every } else { terms.pull_expires };
        ours.map_or(now, |sent| sent + after).max(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn terms() -> LaneTiming {
        LaneTiming { pull_every: 10, pull_expires: 20, ..LaneTiming::of(Duration::from_millis(100)) }
    }

    #[test]
    fn a_pin_is_taken_and_kept_by_young_pulls() {
        let (mut pulls, terms, pin) = (Pulls::default(), terms(), Pin::from("a"));
        assert_eq!(pulls.due(&terms, 0, 4, false), Some((1, None)));
        assert_eq!(pulls.due(&terms, 19, 4, false), None, "without a pin one is enough");
        assert_eq!(pulls.due(&terms, 20, 4, false), Some((2, None)), "it is over");
        assert_eq!(pulls.served(2, &pin), ArrivalPin::New(20));
        assert_eq!(pulls.served(2, &pin), ArrivalPin::Ours(20));
        assert_eq!(pulls.due(&terms, 21, 4, true), None, "no room for more");
        assert_eq!(pulls.due(&terms, 21, 4, false), Some((3, Some(pin.clone()))), "half of it is used up");
        assert_eq!(pulls.due(&terms, 30, 4, false), None);
        assert_eq!(pulls.due(&terms, 31, 4, false), Some((4, Some(pin.clone()))), "the youngest is old");
        assert_eq!(pulls.served(9, &pin), ArrivalPin::Late(None));
    }

    #[test]
    fn a_pin_that_is_lost_is_lost_once() {
        let (mut pulls, terms, pin) = (Pulls::default(), terms(), Pin::from("a"));
        pulls.due(&terms, 0, 4, false);
        pulls.served(1, &pin);
        pulls.due(&terms, 10, 4, false);
        assert!(pulls.wrong_pin(2));
        assert!(!pulls.wrong_pin(1));
        assert_eq!(pulls.served(1, &pin), ArrivalPin::Late(None), "what was on its way");
        assert_eq!(pulls.due(&terms, 11, 4, false), Some((3, None)));
        assert_eq!(pulls.served(3, &"b".into()), ArrivalPin::New(11));
    }

    #[test]
    fn what_came_before_a_connection_was_lost_is_taken_in() {
        let (mut pulls, terms, pin) = (Pulls::default(), terms(), Pin::from("a"));
        pulls.due(&terms, 0, 4, false);
        assert_eq!(pulls.served(1, &pin), ArrivalPin::New(0));
        pulls.disconnected();
        assert_eq!(pulls.wake_at(&terms, 1), 1);
        assert_eq!(pulls.due(&terms, 1, 4, false), Some((2, Some(pin.clone()))));
        assert_eq!(pulls.served(1, &pin), ArrivalPin::Ours(0));
        pulls.ended(1);
        assert_eq!(pulls.served(1, &pin), ArrivalPin::Late(None));
    }

    #[test]
    fn refusals_slow_it_down() {
        let (mut pulls, terms) = (Pulls::default(), terms());
        pulls.due(&terms, 0, 4, false);
        pulls.refused(1, &terms, 1);
        assert_eq!(pulls.due(&terms, terms.pause, 4, false), None);
        assert!(pulls.due(&terms, terms.pause + 1, 4, false).is_some());
    }
}
