//! The main job on a real cluster: chart, operator, brokers, sidecars, all real. Run by `make e2e`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking
#![allow(clippy::print_stdout)] // figures for the log

mod brokers;
mod deletion;
mod delivery;
mod growth;
mod harness;
mod loss;
mod mistakes;
mod order;
mod outside;
mod publishers;
mod relocation;
mod rollout;
mod rollover;
mod routing;
mod scaling;
mod telemetry;
mod waiting;
