//! `order: Key`: the events of one partition key one at a time and in the order of the stream, across retries,
//! changes of replicas and crashes, while other keys continue.
//!
//! The topic's partitions are spread over a few *lanes*. Each lane is a consumer of its own, which the broker pins
//! to one client at a time. But a pin only routes: a client that lost it can still acknowledge, and what a dead
//! one had in flight comes to the next only after `ack_wait`, later than later events of the same keys. So order
//! comes from the clients:
//!
//! 1. Each event in flight has a **lease**, counted from when its pull was sent (which is earlier than its delivery),
//!    shorter than `ack_wait` by a margin, and renewed by requests. Without a live lease nothing starts and nothing
//!    is acknowledged.
//! 2. A new pin, a new connection, a gap in the consumer's numbers, a lapsed lease put up a **barrier** ([`barrier`]):
//!    nothing starts until everything that the broker waits for is in flight, and the pin is ours.
//! 3. Otherwise the oldest event of each key starts, one at a time; the next one waits until the broker has
//!    **confirmed** the acknowledgement.
//! 4. Who loses the pin gives back what has not started, in order; who leaves gives up the pin before that.
//!
//! 5. Behind a head that fails, events are **parked** ([`parked`]): copied to the shelf, acknowledged, and delivered
//!    from there under the lease of the head when that is settled. Nothing of a key is delivered from the lane while
//!    something of it is parked, but for its head.
//!
//! What an acknowledgement of a former owner may do if it is on its way for longer than the margin: let the barrier
//! come down too early, if at that moment exactly as many events are with no one. And what no one can stop is a
//! process that is paused between the check of a lease and its request.
//!
//! [`owner`] is all of this ([`in_flight`], [`pulls`], [`parked`], [`lease`] and [`barrier`] are its parts, [`timing`] its times); what
//! the lanes of a process share is in [`crate::ByKey`].

mod barrier;
mod in_flight;
mod lease;
pub mod owner;
mod parked;
mod pulls;
pub mod timing;

pub(crate) use parked::MAX_READS;
pub use parked::{MAX_KEYS, Section};
