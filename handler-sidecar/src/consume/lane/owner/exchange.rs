//! What an owner is told, and what it wants done.

use crate::consume::lane::hand::Key;
use crate::consume::lane::pulls::Pin;
use crate::consume::lane::terms::Moment;

/// An event as it came here, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The consumer's number of this delivery.
    pub delivery: u64,
    /// The number of its arrival here. A broker that was killed may have forgotten its last deliveries, and hands out
    /// the same event under the same number again: what is heard of the first one says nothing of the second.
    pub arrival: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// An event came by a pull.
    Arrived {
        /// The event.
        id: Id,
        /// Its partition key.
        key: Key,
        /// The number of the pull.
        pull: u64,
        /// Under which the broker sent it.
        pin: Pin,
    },
    /// A pull is over.
    PullEnded(u64),
    /// A pull cannot be served at the moment.
    PullRefused(u64),
    /// The pin of a pull is not in force.
    WrongPin(u64),
    /// There is a new connection.
    Reconnected,
    /// An attempt is over and the event settled.
    Settled(Id),
    /// An attempt is over and the event may start again at this moment.
    Again(Id, Moment),
    /// Whether the broker confirmed an acknowledgement.
    Acknowledged(Id, bool),
    /// Whether the broker confirmed a renewal.
    Renewed(Id, bool),
    /// The broker's state.
    State {
        /// The consumer's number of the last delivery.
        delivered: u64,
        /// Events delivered to anybody and not acknowledged.
        pending: u64,
        /// The pin in force.
        pin: Option<Pin>,
    },
    /// The broker did not tell its state.
    NoState,
    /// The lane goes to somebody else.
    Leave,
    /// The pin is given up, or nobody will say so.
    Unpinned,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a pull.
    Pull {
        /// Its number.
        number: u64,
        /// Our pin, if there is one.
        pin: Option<Pin>,
        /// How many events it may bring.
        batch: u32,
    },
    /// Ask the broker to acknowledge it.
    Acknowledge(Id),
    /// Ask the broker for a longer lease.
    Renew(Id),
    /// It goes back to the broker at once.
    GiveBack(Id),
    /// It is the broker's again: end its attempt, if there is one, and say nothing.
    Drop(Id),
    /// Its acknowledgement is confirmed.
    Done(Id),
    /// Ask the broker for its state.
    Ask,
    /// Give the pin up.
    Unpin,
}
