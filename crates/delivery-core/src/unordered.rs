//! Events in any order: each starts as soon as it is here, and is settled by a message that needs no answer.
//!
//! # Sources
//! They come of two consumers: the topic's ([`TOPIC`]), and that of the handler's retry shelf ([`SHELF`]), to which
//! events go whose next attempt is not soon. Each has a session and a window of its own, so that neither fills the
//! other's. No more attempts run than may, of both together; while both have events that wait, they take turns.
//!
//! # Sessions
//! What is asked for of a source comes to one inbox. A session, which is that inbox and its open requests, is closed
//! where its account is in doubt (a status that does not say how many events are left, a new connection, no heartbeat),
//! and another is opened. The first request of a session is short, with a quick heartbeat: no other answer would soon
//! tell that the consumer is there. All expire well below the broker's response threshold (2 min), or an event that
//! follows a long silence would not find its way back.
//!
//! The broker has no way to cancel a request, and what it sends while the inbox closes may get lost on its way, to come
//! again only after `ack_wait`. So a session is closed only where it is of no use any more:
//!
//! - While the handler is not available, nothing more is asked for (or one event, to try it, if there is none here);
//!   what an open request still brings waits here with the rest. Nor is anything asked for while there is no memory.
//! - A drain first winds down: nothing more is asked for, and what the open request still brings is delivered, until
//!   it is used up (at once, if there is a backlog) or [`WIND_DOWN`] is over. Then the inbox is closed, and what
//!   arrives after that is given back, for after [`GONE_PULL`]. (Given back while the request is open, an event would come
//!   straight back to us.) An event that was on its way in that instant comes to another replica after `ack_wait`: late, not twice.

mod carryover;
mod in_flight;
mod session;
mod source;

use self::source::Source;
use crate::Discipline;
use crate::event::{Id, Lane, Moment};
use crate::exchange::{Action, Demand, Input, Service};

/// The number of the topic's consumer, where another discipline has that of a lane.
pub const TOPIC: Lane = 0;
/// The number of the consumer of the handler's retry shelf.
pub const SHELF: Lane = 1;

/// The shelf's window is this part of the topic's. What comes of the shelf failed before: it should not take the place
/// of what has not been tried.
const SHELF_PART: usize = 8;
/// How long what an open request brings is still delivered after a drain was asked for.
const WIND_DOWN: Moment = 1000;
/// What a drain gives back is given to nobody for so long. A server with a listener for leafnodes, which every broker has,
/// serves a request for 2 s after it came even if its inbox is gone (`nextWaiting` in nats-server 2.15.2): given back at
/// once, an event could go there, and come again only after `ack_wait`.
const GONE_PULL: Moment = 2500;
/// After so many silent sessions in a row the connection is made again.
const MAX_SILENCES: u32 = 2;

/// The discipline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unordered {
    /// Attempts that may run at the same time.
    slots: usize,
    topic: Source,
    shelf: Source,
    /// The source that starts the next attempt, if it has an event that waits.
    turn: Lane,
    /// When a drain ends the sessions at the latest.
    wind_down: Option<Moment>,
    out: Vec<Action>,
}

impl Unordered {
    /// So many attempts at a time; the broker waits for an acknowledgement for `ack_wait` milliseconds, and is told of
    /// an event that is worked on every `renew_every` milliseconds. `seed`: of what chance decides, the length of
    /// pauses.
    pub fn new(slots: usize, ack_wait: Moment, renew_every: Moment, seed: u64) -> Self {
        Self {
            slots,
            topic: Source::new(TOPIC, slots, ack_wait, renew_every, seed),
            shelf: Source::new(SHELF, Self::shelf_slots(slots), ack_wait, renew_every, seed.rotate_left(32)),
            turn: TOPIC,
            wind_down: None,
            out: Vec::new(),
        }
    }

    /// How many events of the shelf may be here or asked for, beside so many of the topic.
    pub fn shelf_slots(slots: usize) -> usize {
        (slots / SHELF_PART).max(1)
    }

    /// Events asked for that have not come.
    pub fn outstanding(&self) -> usize {
        self.sources().map(Source::outstanding).sum()
    }

    /// Events here.
    pub fn in_hand(&self) -> usize {
        self.sources().map(|source| source.held.len()).sum()
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        [&self.topic, &self.shelf].into_iter()
    }

    /// The source with this number.
    fn source(&mut self, lane: Lane) -> Option<&mut Source> {
        match lane {
            TOPIC => Some(&mut self.topic),
            SHELF => Some(&mut self.shelf),
            _ => None,
        }
    }
}

impl Discipline for Unordered {
    fn input(&mut self, now: Moment, input: Input) {
        let (winds_down, mut out) = (self.wind_down.is_some(), std::mem::take(&mut self.out));
        match input {
            Input::Arrival(arrived) => {
                if let Some(source) = self.source(arrived.id.lane) {
                    source.arrived(now, &arrived, winds_down, &mut out);
                }
            }
            Input::Inbox(lane, number, heard) => {
                if let Some(source) = self.source(lane) {
                    source.heard(now, number, heard);
                }
            }
            Input::Attempted(id, Some(disposition)) => {
                if let Some(source) = self.source(id.lane) {
                    source.attempted(id, disposition, winds_down, &mut out);
                }
            }
            _ => {}
        }
        self.out = out;
    }

    fn actions(&mut self, now: Moment, demand: &Demand, out: &mut Vec<Action>) {
        out.append(&mut self.out);
        for source in [&mut self.topic, &mut self.shelf] {
            source.steer(now, demand, self.wind_down, out);
            if demand.connected {
                source.held.renew(now, out);
            }
        }
        // The server says nothing to one session after another: it may be frozen, and another one may not be. (The
        // shelf may be led by another server than the one that we are connected to.)
        if demand.connected && self.topic.silences >= MAX_SILENCES {
            self.topic.silences = 0;
            out.push(Action::Reconnect);
        }
    }

    fn start(&mut self, _now: Moment, _demand: &Demand) -> Option<Id> {
        if self.topic.held.running() + self.shelf.held.running() >= self.slots {
            return None;
        }
        let (first, second) = match self.turn {
            SHELF => (&mut self.shelf, &mut self.topic),
            _ => (&mut self.topic, &mut self.shelf),
        };
        let id = first.held.start().or_else(|| second.held.start())?;
        self.turn = if id.lane == TOPIC { SHELF } else { TOPIC };
        Some(id)
    }

    fn wake_at(&self, now: Moment) -> Option<Moment> {
        self.sources().flat_map(|source| source.wakes(self.wind_down)).filter(|at| *at > now).min()
    }

    fn drain(&mut self, now: Moment) {
        self.wind_down.get_or_insert(now + WIND_DOWN);
    }

    fn is_drained(&self) -> bool {
        let is_idle = self.sources().all(|source| source.is_closed() && source.held.is_empty());
        self.wind_down.is_some() && is_idle && self.out.is_empty()
    }

    fn service(&self) -> Service<'_> {
        match (self.topic.obstacle.trouble(), self.shelf.obstacle.trouble()) {
            (Some(trouble), _) => Service::Troubled(TOPIC, trouble),
            _ if !self.topic.has_answered => Service::Opening,
            (None, Some(trouble)) => Service::Partial(SHELF, trouble),
            (None, None) => Service::Serving,
        }
    }

    /// Silent sessions are what says so, sooner.
    fn is_stalled(&self, _now: Moment) -> bool {
        false
    }

    fn abandon(&mut self, out: &mut Vec<Action>) {
        out.append(&mut self.out);
        for source in [&mut self.topic, &mut self.shelf] {
            source.close_at_once(out);
            source.held.abandon(out);
        }
    }
}
