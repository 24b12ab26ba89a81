//! `tidegate` as its users have it: processes, with a real nats-server, ingress and sidecars.

#![allow(clippy::unwrap_used)] // helpers are no tests for clippy

mod console;
mod dev;
mod doctor;
mod ends;
mod send;
mod settle;
mod stored;
mod support;
