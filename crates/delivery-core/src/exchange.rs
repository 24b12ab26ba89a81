//! What a discipline is told, what it wants done, and under which conditions.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::event::{Disposition, Id, Key, Lane, Moment};
use crate::lane::Section;

/// The broker's name for one owner's time with a lane; empty where there are no lanes.
pub type Pin = Arc<str>;

/// Whether the handler's container takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// As many as there can be.
    Up,
    /// One at a time tries it.
    Trying,
    /// None.
    Away,
}

/// The conditions of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Demand {
    /// The handler.
    pub handler: Handler,
    /// Whether there is a connection to the broker.
    pub connected: bool,
    /// Its number: every new one has another.
    pub epoch: u64,
    /// Whether there is memory for more events.
    pub room: bool,
    /// How many more events would have their turn soon, by the handler's rate.
    pub turns: usize,
}

/// An event that came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// Its name.
    pub id: Id,
    /// Its partition key, where that matters.
    pub key: Key,
    /// The inbox by which it came.
    pub inbox: u64,
    /// Under which the broker sent it.
    pub pin: Pin,
    /// Its size.
    pub bytes: usize,
    /// Whether it was settled before the lanes were others: it only comes because the lane began before it.
    pub is_settled: bool,
}

/// What became of copies for the shelf, which are stored all together or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkResult {
    /// They are stored.
    Stored,
    /// They are not: the shelf is full, or there is none.
    Refused,
    /// They may be stored or not.
    Unknown,
}

/// What the shelf has first for a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FetchResult {
    /// This event, under the sequence of the stream that it was copied from.
    Event(Arrival),
    /// Nothing is parked.
    Nothing,
    /// It did not say.
    Unknown,
}

/// The keys of a section of which something is parked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParkedKeys {
    /// The keys in their order, or the last ones of them (of [`Section::ALL`] none) where there are more than
    /// [`crate::lane::MAX_KEYS`]; and whether each is held until a person releases it.
    pub keys: Vec<(Key, bool)>,
    /// Whether these are all.
    pub are_all: bool,
    /// How many there are, as far as it is known.
    pub count: u64,
}

/// What the record of a lane's lease of the shelf says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tenancy {
    /// The lease is ours now, by the record of this sequence.
    Ours(u64),
    /// It was not taken, because the record is another one.
    Other {
        /// Its sequence; 0: there is none.
        sequence: u64,
        /// Whether it says that no one else has the lease.
        is_free: bool,
    },
    /// There is no answer.
    Unknown,
}

/// What is heard of an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InboxReport {
    /// The broker has what was subscribed to for it, as was asked by [`Action::Confirm`].
    Open,
    /// A sign of life.
    Alive,
    /// A pull ended, and so many of its events will not come.
    Ended(usize),
    /// A pull cannot be served, or could not be sent; how much of it is left is not said.
    Lost(Trouble),
    /// The pin of a pull is not in force.
    WrongPin,
    /// The inbox is closed, as asked or because the connection is lost: nothing more comes.
    Closed,
}

/// Why the broker does not serve a pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The consumer moved to another server: ask again.
    Moved,
    /// The server that has the consumer ends. It continues to serve what it was asked for, and ignores the end of a
    /// subscription (`unsubscribe` of nats-server): so the inbox has to stay open.
    Ending,
    /// No part of the broker serves the request: the consumer does not exist (any more), or has no leader at the
    /// moment, or this identity may not pull from it.
    NoConsumer,
    /// The consumer has too many requests or too many unacknowledged events.
    Busy(String),
    /// The request does not fit the consumer: somebody must change its settings.
    Refused(String),
    /// No heartbeat came.
    Silent,
    /// The connection takes no request at the moment.
    Congested,
}

impl Trouble {
    /// A server that ends is asked for nothing for so long, unless the connection is lost before.
    pub(crate) const REST: Moment = 5000;

    /// Whether it passes by itself, so that there is nothing to read about.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::Moved | Self::Ending | Self::Congested)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved => f.write_str("the consumer moved to another server"),
            Self::Ending => f.write_str("the consumer's server ends"),
            Self::NoConsumer => f.write_str(
                "no consumer answers: it does not exist (any more), has no leader yet, or may not be pulled by us",
            ),
            Self::Busy(why) => write!(f, "the consumer is busy: {why}"),
            Self::Refused(why) => write!(f, "the broker refuses the pull: {why}"),
            Self::Silent => f.write_str("the consumer is silent: no heartbeat came"),
            Self::Congested => f.write_str("the connection takes no request at the moment"),
        }
    }
}

/// The state of a lane's consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The consumer's number of the last delivery.
    pub delivered: u64,
    /// Events delivered to anybody and not acknowledged.
    pub pending: u64,
    /// All sequences up to this one are acknowledged, or were never this consumer's.
    pub floor: u64,
    /// The highest sequence that was delivered.
    pub highest: u64,
    /// The pin in force.
    pub pin: Option<Pin>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// An event came.
    Arrival(Arrival),
    /// Something else came to an inbox of a lane.
    Inbox(Lane, u64, InboxReport),
    /// An attempt is over; `None`: it was ended, because the event was dropped.
    Attempted(Id, Option<Disposition>),
    /// Whether the broker confirmed an acknowledgement.
    Acknowledged(Id, bool),
    /// Whether the broker confirmed a renewal.
    Renewed(Id, bool),
    /// Whether the copies of these events are on the shelf.
    Parked(Vec<Id>, ParkResult),
    /// What is parked first of a key.
    Fetched(Lane, Key, FetchResult),
    /// Whether a parked event is removed from the shelf.
    Unparked(Id, bool),
    /// The parked keys of the section of a lane that was asked for, if the shelf told them.
    Listed(Lane, Option<ParkedKeys>),
    /// The sequence, in the stream that it was copied from, of what is parked last of a key, if the shelf told it; 0:
    /// nothing is.
    LastParked(Lane, Key, Option<u64>),
    /// Whether a key is held, if the shelf told it.
    MarkFound(Lane, Key, Option<bool>),
    /// What became of taking a lane's lease of the shelf.
    Leased(Lane, Tenancy),
    /// Whether it is on record that a key is held.
    Detained(Lane, Key, bool),
    /// The state of a lane's consumer, if the broker told it.
    State(Lane, Option<State>),
    /// Whether the broker confirmed that it has what a lane reclaimed.
    Reclaimed(Lane, bool),
    /// How many events of a lane wait: published and not delivered, or delivered and not acknowledged; if it is known.
    Waiting(Lane, Option<u64>),
    /// The pin of a lane is given up, or it will not be confirmed that it is.
    Unpinned(Lane),
    /// The lanes that are ours, as the members share them out.
    Lanes(BTreeSet<Lane>),
    /// The lanes of which another member may have events; until this is said, all of them.
    Others(BTreeSet<Lane>),
}

/// A request for events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pull {
    /// Of this lane's consumer.
    pub lane: Lane,
    /// To this inbox of the lane, which it opens if it is not open. It ends with the connection
    /// ([`InboxReport::Closed`]).
    pub inbox: u64,
    /// How many events it may bring.
    pub batch: usize,
    /// The broker ends it after so many milliseconds.
    pub expires: Moment,
    /// What else is asked of the broker.
    pub kind: Kind,
}

/// The two kinds of pulls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The broker gives a sign of life this often, in milliseconds.
    Plain {
        /// The time between two of them.
        heartbeat: Moment,
    },
    /// As the owner of the lane: under our pin, if there is one.
    Pinned(Option<Pin>),
}

/// How an inbox is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Close {
    /// What was sent already still comes; then it is [`InboxReport::Closed`]: as soon as the broker has answered, or
    /// the connection is lost, or at once if it is not open.
    InOrder,
    /// At once. What is here already still comes.
    AtOnce,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask for events.
    Pull(Pull),
    /// Subscribe to the handler's events, in its group.
    Join(u64),
    /// Ask the broker whether it has the subscriptions of this inbox; [`InboxReport::Open`] says so. If the connection is
    /// lost first there is no answer.
    Confirm(u64),
    /// Close an inbox of a lane.
    Close(Lane, u64, Close),
    /// Tell the broker that it may forget the event.
    Acknowledge {
        /// The event.
        id: Id,
        /// Whether the broker is asked to confirm it; if not, the event has left.
        confirm: bool,
    },
    /// Tell the broker that the event is worked on.
    Renew {
        /// The event.
        id: Id,
        /// Whether the broker is asked to confirm it.
        confirm: bool,
    },
    /// Tell the broker that the event is worked on for so many milliseconds from now, also if it was given back before:
    /// an answer ([`Input::Renewed`]) says that all that was given back before is known there, and this event is lent
    /// to us.
    Hold {
        /// The event.
        id: Id,
        /// How long.
        wait: Moment,
    },
    /// The event goes back to the broker, for after so many milliseconds (0: at once); it has left.
    GiveBack {
        /// The event.
        id: Id,
        /// How long the broker keeps it.
        wait: Moment,
    },
    /// Copy events to the shelf: all together or none, in this order.
    Park {
        /// The events, at least one, all of a lane, with their keys.
        events: Vec<(Id, Key)>,
    },
    /// Ask which keys of a section of a lane are parked.
    List(Lane, Section),
    /// Ask whether a key is held.
    FindMark {
        /// The key's lane.
        lane: Lane,
        /// The key.
        key: Key,
    },
    /// Ask up to where a key is copied.
    FindLast {
        /// The key's lane.
        lane: Lane,
        /// The key.
        key: Key,
    },
    /// Take the lease of a lane's part of the shelf, or renew it, if the record of it is still this one.
    TakeLease {
        /// The lane.
        lane: Lane,
        /// The sequence of the record; 0: there is none.
        over: u64,
    },
    /// Say that the lease is free, if the record of it is still this one.
    FreeLease {
        /// The lane.
        lane: Lane,
        /// The sequence of the record.
        over: u64,
    },
    /// Put on record that a key waits for a person to release it.
    Detain {
        /// The key's lane.
        lane: Lane,
        /// The key.
        key: Key,
    },
    /// Read the first parked event of a key.
    Fetch {
        /// The key's lane.
        lane: Lane,
        /// The key.
        key: Key,
        /// Whether a former owner may have begun an attempt of it, and left no trace.
        again: bool,
    },
    /// Remove a parked event from the shelf.
    Unpark {
        /// The event.
        id: Id,
    },
    /// The event has left, and there is nothing to tell: its attempt ends, if one runs.
    Drop(Id),
    /// Ask for the state of a lane's consumer.
    Ask(Lane),
    /// Give back what of these sequences of a lane (there are some) the broker still waits for, though it never came
    /// here (or is gone).
    Reclaim {
        /// The lane.
        lane: Lane,
        /// The consumer's number of its last delivery.
        delivered: u64,
        /// The sequences, in the order in which they shall come.
        sequences: Vec<u64>,
    },
    /// Tell the other members of which lanes there may be events here, before any comes.
    Announce(BTreeSet<Lane>),
    /// Ask how many events of a lane wait.
    Count(Lane),
    /// Give the pin of a lane up.
    Unpin(Lane),
    /// Connect again.
    Reconnect,
}

/// Whether events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service<'a> {
    /// It is not known yet.
    Opening,
    /// They do, if there are any.
    Serving,
    /// They do, but for those of this source, for this reason.
    Partial(Lane, &'a Trouble),
    /// They do not, for this reason; of this lane, where there are lanes.
    Troubled(Lane, &'a Trouble),
}
