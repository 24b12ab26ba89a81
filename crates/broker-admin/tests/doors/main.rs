//! The doors of a broker, tried against real nats-servers: which client gets in where, and how much of it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod limits;
mod matrix;
mod operations;
mod raw;
mod routes;
mod stranger;
mod table;
