//! The ingress, run in this process, against a real nats-server.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod broker;
mod connections;
mod modes;
mod process;
mod refusals;
mod support;
