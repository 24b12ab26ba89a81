//! The broker's side: the connection, what pulls and settles look like on it, and the other sidecars of the handler.

pub mod connection;
pub mod delivery_info;
pub mod members;
pub mod publish_ack;
pub mod pull;
