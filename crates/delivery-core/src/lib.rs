//! When an event may start and how it is settled: the disciplines of delivery, as pure state machines.
//!
//! - [`Unordered`]: each event as soon as it is here, settled by a message that needs no answer.
//! - [`ByKey`]: the events of a key one at a time and in the order of the stream.
//! - [`Direct`]: each event once, from publisher to handler without a stream between.
//!
//! The sidecar's runner tells a [`Discipline`] what happens and does what it wants done. Nothing here waits, sends,
//! reads a clock or counts; and so all of it is checked by models (`tests/`).

mod by_key;
mod direct;
mod event;
mod exchange;
pub mod lane;
mod memory;
mod obstacle;
mod sizes;
mod unordered;
mod watchdog;
mod window;

pub use by_key::ByKey;
pub use direct::Direct;
pub use event::{Disposition, Id, Key, Lane, Moment, Outcome, millis};
pub use exchange::{
    Action, Arrival, Close, Demand, FetchResult, Handler, InboxReport, Input, Kind, ParkResult, ParkedKeys, Pin, Pull,
    Service, State, Tenancy, Trouble,
};
pub use unordered::{SHELF, TOPIC, Unordered};

/// A way of delivery. Time is passed in, and does not run backwards.
pub trait Discipline {
    /// Takes in what happened.
    fn input(&mut self, now: Moment, input: Input);

    /// Adds what is to be done now, in this order, under these conditions.
    fn actions(&mut self, now: Moment, demand: &Demand, out: &mut Vec<Action>);

    /// The event whose attempt is to start this very moment, if there is one. To be called until there is none.
    fn start(&mut self, now: Moment, demand: &Demand) -> Option<Id>;

    /// When there is something to do, if nothing happens before.
    fn wake_at(&self, now: Moment) -> Option<Moment>;

    /// No more events are wanted; those that are here are finished or given back.
    fn drain(&mut self, now: Moment);

    /// Whether a drain is over.
    fn is_drained(&self) -> bool;

    /// Whether events come.
    fn service(&self) -> Service<'_>;

    /// Whether events wait that could start, and nothing starts for so long that only a restart is left.
    fn is_stalled(&self, now: Moment) -> bool;

    /// The end, at once: adds what is to be done about every event that is here, and forgets it.
    fn abandon(&mut self, out: &mut Vec<Action>);
}
