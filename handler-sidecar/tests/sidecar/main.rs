//! The sidecar against a real nats-server and containers of all kinds, a file for each subject. One program: each further one
//! would be compiled and linked with everything once more.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod attempts;
mod breaker;
mod delivery;
mod direct;
mod expiry;
mod filter;
mod formats;
mod hostile;
mod kill;
mod lanes;
mod life;
mod parked;
mod process;
mod rate;
mod readiness;
mod reply;
mod restart;
mod rollover;
mod sdk;
mod shelf;
#[path = "../support/mod.rs"]
mod support;
mod suspension;
mod user_keys;
mod workload;
