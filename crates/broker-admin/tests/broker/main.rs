//! What an operator does to brokers, with real nats-servers, a file for each subject. One program: each further one would be
//! compiled and linked with everything once more.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod accounts;
mod api;
mod audit;
mod certificates;
mod consumers;
mod corners;
mod doors;
mod groups;
mod growth;
mod handler_streams;
mod held_keys;
mod in_force;
mod ingress;
mod later;
mod overview;
mod positions;
mod release;
mod relocation;
mod retries;
mod single_copy;
mod streams;
mod user_keys;
