//! NATS, as a client speaks it.
//!
//! The core is free of I/O: [`Decoder`] takes bytes and says what the server said, [`encode`] makes bytes of what the
//! client says. It trusts a server with nothing: every length has a bound that is checked before memory is reserved.
//! What a *publisher* can write (headers, subjects) never makes a connection fail: such a message comes with
//! [`Message::malformed`].
//!
//! Around it, with feature `nats-client`, is [`Client`]: one task that owns the connection, makes it again when it is
//! lost, and renews all subscriptions.

#[cfg(feature = "nats-client")]
mod client;
mod decode;
pub mod encode;
mod header;
mod message;

#[cfg(feature = "nats-client")]
pub use client::{
    Client, ConnectError, Credentials, Event, FlushError, Identity, IdentityError, Link, Loss, Offline, Options,
    PublishError, QueueLimits, RequestError, ServerOrder, Statistics, SubscribeError, Subscriber, is_nonce,
};
pub use decode::{Decoder, MAX_LINE_BYTES, ProtocolError, ServerInfo, ServerOp};
pub use encode::{InvalidSubject, Publish};
pub use header::{HeaderBlock, HeaderError, Headers, InvalidHeader, MAX_HEADER_BYTES};
pub use message::{Malformed, Message};
