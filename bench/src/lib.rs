//! Tidegate's figures: each is measured beside what it is compared with, in the same run, on loopback, against a
//! real nats-server. The main figure is the processor time of an event, by party (the program, the broker's servers,
//! the handler): it holds on a busy machine. Rates come second, and as ratios.
//!
//! - [`rows`] are the figures, a file for each group of them; [`bench`] is how they are measured;
//! - [`contender`] lets programs deliver in turn: ours ([`process`]), the raw client with the same kind of account
//!   ([`raw`], in a process of its own: [`worker`]), and other people's ([`peers`], [`daprd`]);
//! - [`publisher`] publishes to an ingress with as little work of its own as there can be; [`hostile`] wants one for itself;
//! - [`broker`] and [`handler`] are what they need, [`events`] makes the events;
//! - [`meter`] counts and reads the parties' clocks ([`cpu`]), [`stopwatch`] times an open loop;
//! - [`stats`] is pure, [`figures`] keeps, [`report`] prints, [`page`] and [`chart`] write `docs/performance.md`.
//!
//! What is compared takes turns, round after round; a figure is the median of its rounds.

pub mod bench;
pub mod broker;
pub mod chart;
pub mod contender;
pub mod cpu;
pub mod daprd;
pub mod events;
pub mod figures;
pub mod handler;
pub mod hostile;
pub mod meter;
pub mod page;
pub mod peers;
pub mod process;
pub mod publisher;
pub mod raw;
pub mod report;
pub mod rows;
pub mod stats;
pub mod stopwatch;
pub mod worker;

use std::time::Duration;

/// Events in flight, of a sidecar and of whatever it is compared with.
pub const CONCURRENCY: u16 = 64;
/// No part of a round takes longer; what does is broken.
pub const LIMIT: Duration = Duration::from_secs(60);
