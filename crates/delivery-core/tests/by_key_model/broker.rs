//! The consumer of a lane, as the broker has it, for one sidecar.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_delivery_core::{InboxReport, Kind, Moment, Pin, Pull, State};

pub const ACK_WAIT: Moment = 30_000;
/// An owner that does not pull for so long loses the pin.
const PIN_LASTS: Moment = 5000;
/// A server that is killed has forgotten no more than this.
const FORGETS: Moment = 8000;
/// Events delivered and not acknowledged, at most.
const WINDOW: usize = 4;

/// A request.
#[derive(Clone, Debug)]
struct Request {
    inbox: u64,
    left: usize,
    pin: Option<Pin>,
    expires: Moment,
}

/// What is on the disk of it: all of it when the server ends in order, what was there some time ago when it is killed.
#[derive(Clone, Debug, Default)]
struct Progress {
    delivered: u64,
    deliveries: u64,
    pending: BTreeMap<u64, Moment>,
    again: BTreeSet<u64>,
}

/// The consumer.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    pub published: u64,
    pub acknowledged: BTreeSet<u64>,
    progress: Progress,
    saved: Progress,
    saved_at: Moment,
    pin: Option<Pin>,
    pins: u64,
    pulled: Moment,
    requests: Vec<Request>,
}

/// What it sends to an inbox.
pub enum Sent {
    Event { sequence: u64, delivery: u64, pin: Pin },
    InboxReport(InboxReport),
}

impl Consumer {
    pub fn is_settled(&self) -> bool {
        (1..=self.published).all(|sequence| self.acknowledged.contains(&sequence)) && self.progress.pending.is_empty()
    }

    pub fn pull(&mut self, now: Moment, pull: &Pull) {
        let Kind::Pinned(pin) = pull.kind.clone() else { panic!("a lane is pulled under a pin") };
        if pin.is_some() && pin == self.pin {
            self.pulled = now;
        }
        self.requests.push(Request { inbox: pull.inbox, left: pull.batch, pin, expires: now + pull.expires });
    }

    pub fn close(&mut self, inbox: Option<u64>) {
        self.requests.retain(|request| inbox.is_some_and(|inbox| request.inbox != inbox));
    }

    pub fn acknowledge(&mut self, sequence: u64) {
        self.progress.pending.remove(&sequence);
        self.progress.again.remove(&sequence);
        self.acknowledged.insert(sequence);
    }

    pub fn renew(&mut self, now: Moment, sequence: u64) {
        if let Some(until) = self.progress.pending.get_mut(&sequence) {
            *until = now + ACK_WAIT;
        }
    }

    /// The same, also if it was given back.
    pub fn hold(&mut self, now: Moment, sequence: u64) {
        self.renew(now, sequence);
        self.progress.again.remove(&sequence);
    }

    /// It comes again after so many milliseconds, if it is waited for.
    pub fn give_back(&mut self, now: Moment, sequence: u64, wait: Moment) {
        if let Some(until) = self.progress.pending.get_mut(&sequence) {
            *until = now + wait;
        }
    }

    pub fn unpin(&mut self) {
        self.pin = None;
    }

    pub fn state(&self) -> State {
        let Progress { delivered, deliveries, pending, .. } = &self.progress;
        let floor = pending.keys().next().map_or(*delivered, |first| first - 1);
        let count = u64::try_from(pending.len()).unwrap();
        State { delivered: *deliveries, pending: count, pin: self.pin.clone(), floor, highest: *delivered }
    }

    pub fn waiting(&self) -> u64 {
        self.published - self.progress.delivered + u64::try_from(self.progress.pending.len()).unwrap()
    }

    pub fn save(&mut self, now: Moment) {
        (self.saved, self.saved_at) = (self.progress.clone(), now);
    }

    /// The server starts again; killed, it has forgotten what was not on its disk.
    pub fn restart(&mut self, is_killed: bool) {
        if is_killed {
            self.progress = self.saved.clone();
        }
        self.pin = None;
        self.requests.clear();
    }

    /// Ends a request, whose rest it names or not.
    pub fn refuse(&mut self) -> Option<u64> {
        self.requests.pop().map(|request| request.inbox)
    }

    /// Time passes: requests that end.
    pub fn tick(&mut self, now: Moment) -> Vec<(u64, InboxReport)> {
        if now > self.saved_at + FORGETS {
            self.save(now);
        }
        if now > self.pulled + PIN_LASTS {
            self.pin = None;
        }
        let over = self.requests.extract_if(.., |request| request.expires <= now);
        over.map(|request| (request.inbox, InboxReport::Ended(request.left))).collect()
    }

    /// The next thing that it sends, and to which inbox.
    pub fn serve(&mut self, now: Moment) -> Option<(u64, Sent)> {
        let progress = &mut self.progress;
        progress.again.extend(progress.pending.iter().filter(|(_, until)| **until <= now).map(|(s, _)| *s));
        let is_new = progress.delivered < self.published && progress.pending.len() < WINDOW;
        let sequence = progress.again.first().copied().or(is_new.then_some(progress.delivered + 1))?;
        let position = self.requests.iter().position(|request| request.pin.is_some() || self.pin.is_none())?;
        let request = &mut self.requests[position];
        if request.pin.is_some() && request.pin != self.pin {
            return Some((self.requests.remove(position).inbox, Sent::InboxReport(InboxReport::WrongPin)));
        }
        if self.pin.is_none() {
            self.pins += 1;
            (self.pin, self.pulled) = (Some(self.pins.to_string().into()), now);
            request.pin = self.pin.clone();
        }
        let (inbox, pin) = (request.inbox, self.pin.clone()?);
        request.left -= 1;
        self.requests.retain(|request| request.left > 0);
        progress.again.remove(&sequence);
        progress.delivered = progress.delivered.max(sequence);
        progress.deliveries += 1;
        progress.pending.insert(sequence, now + ACK_WAIT);
        Some((inbox, Sent::Event { sequence, delivery: progress.deliveries, pin }))
    }
}
