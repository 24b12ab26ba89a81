//! The handler's side: whether its container is available, and one request to it.

pub mod answer;
pub mod availability;
pub mod breaker;
pub mod listeners;
pub mod loopback;
pub mod post;
mod probe;
