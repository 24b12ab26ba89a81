//! The client against real servers, and against one that means harm.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod hostile;
mod server;
mod support;
