//! How events are taken, when each may start, and one event's way to its disposition.
//!
//! When an event may start, and what is told to the broker, a discipline of `tidegate-delivery-core` decides;
//! [`runner`] does it, for each of the three in the same way.

mod flight;
mod once;
pub mod process;
pub mod rate;
pub mod runner;
pub mod workload;
