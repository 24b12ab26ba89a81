//! The broker's side: the connection, what pulls and settles look like on it, and the other sidecars of the handler.
//!
//! What the runner uses of it is [`line::Line`] and [`message::Message`].

pub mod connection;
pub mod line;
pub mod members;
pub mod message;
pub mod parked;
pub mod publish_ack;
pub mod pull;
pub mod suspension;
