//! HTTP/1.1 as a client speaks it (RFC 9112).
//!
//! The core writes the head of a request into a buffer ([`RequestPrefix`], [`HeaderLines`]) and reads a response from
//! whatever bytes there are ([`HeadDecoder`], [`BodyDecoder`]); it holds none of them, and does no I/O.

mod chunked;
mod decoder;
mod error;
mod head;
mod request;

pub use self::decoder::{BodyDecoder, BodyStep, FinalHead, HeadDecoder, HeadStep};
pub use self::error::DecodeError;
pub use self::head::{Headers, MAX_HEAD_BYTES};
pub use self::request::{HeaderLines, InvalidHeader, RequestPrefix};
