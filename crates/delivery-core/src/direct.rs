//! `routing: Direct`: events from publisher to handler without a stream between.
//!
//! The sidecars of a handler are one queue group, so that each event comes to one of them. It is posted once. There
//! is no acknowledgement and so no second attempt: what the handler does not take is counted and gone, as is what
//! comes when as many events as may run do and [`QUEUE`] more wait.
//!
//! While the handler takes no connections the sidecar leaves the group: events go to the other sidecars, if there
//! are any. A drain leaves it too, and finishes what has come.

use std::collections::{BTreeMap, VecDeque};

use crate::Discipline;
use crate::event::{Id, Moment};
use crate::exchange::{Action, Close, Demand, Handler, InboxReport, Input, Service};

/// Events that may wait for one of those that run to end.
pub const QUEUE: usize = 256;
/// They have this many bytes at most, whatever their number.
pub const QUEUE_BYTES: usize = 8 << 20;
/// Between two tries to subscribe.
const PAUSE: Moment = 1000;

/// A membership in the handler's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Membership {
    inbox: u64,
    /// The connection over which the broker was asked to confirm it.
    asked_over: Option<u64>,
    /// The connection over which it did. On another one the subscription is made again.
    known_over: Option<u64>,
    /// It is left; what the broker sent before it knew of that still comes, until the inbox is closed.
    is_closing: bool,
}

/// The discipline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Direct {
    slots: usize,
    group: Option<Membership>,
    /// The number of the last membership.
    memberships: u64,
    is_known: bool,
    retry_at: Moment,
    waiting: VecDeque<(Id, usize)>,
    bytes: usize,
    running: BTreeMap<u64, Id>,
    draining: bool,
    out: Vec<Action>,
}

impl Direct {
    /// So many events at a time.
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            group: None,
            memberships: 0,
            is_known: false,
            retry_at: 0,
            waiting: VecDeque::new(),
            bytes: 0,
            running: BTreeMap::new(),
            draining: false,
            out: Vec::new(),
        }
    }

    /// Events that wait, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.bytes)
    }

    /// Takes an event in, unless there are too many; an event that is alone always fits. One of a group that was left
    /// at once is not taken.
    fn arrived(&mut self, id: Id, inbox: u64, bytes: usize) {
        let sum = self.bytes.saturating_add(bytes);
        let full = !self.waiting.is_empty() && (self.waiting.len() >= QUEUE || sum > QUEUE_BYTES);
        if full || self.group.is_none_or(|group| group.inbox != inbox) {
            return self.out.push(Action::Drop(id));
        }
        self.bytes = sum;
        self.waiting.push_back((id, bytes));
    }

    fn leave_at_once(&mut self) {
        if let Some(group) = self.group.take() {
            self.out.push(Action::Close(0, group.inbox, Close::AtOnce));
        }
    }

    /// Joins or leaves the group, as the handler's state and the drain say.
    fn steer(&mut self, now: Moment, demand: &Demand) {
        // Of a drain without a connection: nothing can come.
        let lost = self.draining && !demand.connected;
        let unwanted = !self.draining && demand.handler == Handler::Away;
        if lost || unwanted {
            self.leave_at_once();
        } else if self.draining {
            if let Some(group) = self.group.as_mut().filter(|group| !group.is_closing) {
                group.is_closing = true;
                self.out.push(Action::Close(0, group.inbox, Close::InOrder));
            }
        } else if self.group.is_none() && self.retry_at <= now {
            self.memberships += 1;
            let inbox = self.memberships;
            self.group = Some(Membership { inbox, asked_over: None, known_over: None, is_closing: false });
            self.out.push(Action::Join(inbox));
        }
        self.confirm(demand);
    }

    /// Asks, once over each connection, whether the broker has the membership: until then it sends nothing here, and
    /// what is published meanwhile is lost.
    fn confirm(&mut self, demand: &Demand) {
        let epoch = demand.connected.then_some(demand.epoch);
        let open = self.group.as_mut().filter(|group| !group.is_closing);
        if let Some(group) = open.filter(|group| epoch.is_some() && group.asked_over != epoch) {
            group.asked_over = epoch;
            self.out.push(Action::Confirm(group.inbox));
        }
        self.is_known = epoch.is_some() && self.group.is_some_and(|group| group.known_over == epoch);
    }
}

impl Discipline for Direct {
    fn input(&mut self, now: Moment, input: Input) {
        match input {
            Input::Arrival(arrived) => self.arrived(arrived.id, arrived.inbox, arrived.bytes),
            Input::Inbox(_, inbox, InboxReport::Closed | InboxReport::Lost(_))
                if self.group.is_some_and(|group| group.inbox == inbox) =>
            {
                self.group = None;
                self.retry_at = now + PAUSE;
            }
            Input::Inbox(_, inbox, InboxReport::Open) => {
                if let Some(group) = self.group.as_mut().filter(|group| group.inbox == inbox) {
                    group.known_over = group.asked_over;
                }
            }
            Input::Attempted(id, _) if self.running.remove(&id.arrival).is_some() => self.out.push(Action::Drop(id)),
            _ => {}
        }
    }

    fn actions(&mut self, now: Moment, demand: &Demand, out: &mut Vec<Action>) {
        self.steer(now, demand);
        out.append(&mut self.out);
    }

    fn start(&mut self, _now: Moment, demand: &Demand) -> Option<Id> {
        if !self.running.is_empty() && (self.running.len() >= self.slots || !demand.room) {
            return None;
        }
        let (id, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        self.running.insert(id.arrival, id);
        Some(id)
    }

    fn wake_at(&self, now: Moment) -> Option<Moment> {
        self.group.is_none().then_some(self.retry_at).filter(|at| *at > now)
    }

    fn drain(&mut self, _now: Moment) {
        self.draining = true;
    }

    fn is_drained(&self) -> bool {
        let idle = self.waiting.is_empty() && self.running.is_empty() && self.out.is_empty();
        self.draining && self.group.is_none() && idle
    }

    fn service(&self) -> Service<'_> {
        if self.is_known { Service::Serving } else { Service::Opening }
    }

    /// Nothing is kept for it, so nothing can wait for nothing.
    fn is_stalled(&self, _now: Moment) -> bool {
        false
    }

    fn abandon(&mut self, out: &mut Vec<Action>) {
        self.leave_at_once();
        self.bytes = 0;
        out.append(&mut self.out);
        let waiting = self.waiting.drain(..).map(|(id, _)| id);
        let running = std::mem::take(&mut self.running).into_values();
        out.extend(waiting.chain(running).map(Action::Drop));
    }
}
