//! What is delivered: whether an event is for the handler, and its form as a request.

pub mod as_stored;
pub mod batch;
pub mod filter;
pub mod hops;
pub mod request;
