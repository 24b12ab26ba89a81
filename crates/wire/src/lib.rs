//! The data plane's own protocol code, bounded in every length that the other side sends.
//!
//! Each protocol is a core that does no I/O, and a driver over tokio around it, which is a feature of its own.

pub mod http;
pub mod nats;
