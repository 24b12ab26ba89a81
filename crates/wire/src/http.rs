//! HTTP/1.1 as a client speaks it (RFC 9112).
//!
//! The core writes the head of a request into a buffer ([`RequestPrefix`], [`HeaderLines`]) and reads a response from
//! whatever bytes there are ([`HeadDecoder`], [`BodyDecoder`]); it holds none of them, and does no I/O. The driver
//! ([`Client`]) keeps warm connections to one address. The future of a request does the I/O itself, and while it waits
//! it holds no buffer.

mod chunked;
#[cfg(feature = "http-client")]
mod client;
mod decoder;
mod error;
mod head;
mod request;

#[cfg(feature = "http-client")]
pub use self::client::{Body, Client, Connect, ExchangeError, IdleLimits, Outgoing, Response, SendError};
pub use self::decoder::{BodyDecoder, BodyStep, FinalHead, HeadDecoder, HeadStep};
pub use self::error::DecodeError;
pub use self::head::{Headers, MAX_HEAD_BYTES};
pub use self::request::{HeaderLines, InvalidHeader, RequestPrefix};
