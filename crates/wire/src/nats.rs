//! NATS, as a client speaks it.
//!
//! The core is free of I/O: [`Decoder`] takes bytes and says what the server said, [`encode`] makes bytes of what the
//! client says. It trusts a server with nothing: every length has a bound that is checked before memory is reserved.
//! What a *publisher* can write (headers, subjects) never makes a connection fail: such a message comes with
//! [`Message::malformed`].

mod decode;
pub mod encode;
mod header;
mod message;

pub use decode::{Decoder, MAX_LINE_BYTES, ProtocolError, ServerInfo, ServerOp};
pub use encode::{InvalidSubject, Publish};
pub use header::{HeaderBlock, HeaderError, Headers, InvalidHeader, MAX_HEADER_BYTES};
pub use message::{Malformed, Message};
