//! For those who run and watch the sidecar: configuration, bounds, health, drain, metrics, traces, reports.

pub mod admin;
pub mod budget;
pub mod config;
pub mod drain;
pub mod health;
pub mod metrics;
pub mod options;
pub mod report;
pub mod trace;
