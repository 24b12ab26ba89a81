//! Tidegate's figures: each is measured beside what it is compared with, in the same run, on loopback, against a
//! real nats-server. Ratios rather than rates: those hold on any machine.
//!
//! - [`rows`] are the figures, a file for each group of them;
//! - [`broker`], [`handler`] and [`process`] are what they need: a nats-server, a user's container that counts,
//!   and our programs as they ship;
//! - [`raw`] is what the programs are compared with, [`worker`] the part of it that has a process of its own;
//! - [`events`] makes the events, [`pace`] and [`stopwatch`] take the times;
//! - [`stats`] is pure, and [`report`] prints.
//!
//! What is compared takes turns, [`ROUNDS`] times; a figure is the median of its rounds' ratios.

pub mod broker;
pub mod events;
pub mod handler;
pub mod pace;
pub mod process;
pub mod raw;
pub mod report;
pub mod rows;
pub mod stats;
pub mod stopwatch;
pub mod worker;

use std::time::Duration;

/// How often each comparison is made.
pub const ROUNDS: usize = 5;
/// Events in flight, of a sidecar and of whatever it is compared with.
pub const CONCURRENCY: u16 = 64;
/// Nothing that is measured takes longer; what does is broken.
pub const LIMIT: Duration = Duration::from_secs(30);
