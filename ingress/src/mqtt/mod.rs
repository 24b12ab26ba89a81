//! Events over MQTT 3.1.1 and 5, for publishers only.
//!
//! - [`session`]: what a packet means and what is answered. Pure; the protocol itself is `mqtt-protocol-core`'s.
//! - [`answer`]: the packets we send. Pure.
//! - [`clients`]: the devices that are connected.
//! - [`connection`]: one connection, from its handshake to its end.
//!
//! # What is spoken
//! | | MQTT 5 | MQTT 3.1.1 |
//! |---|---|---|
//! | an event | binary or structured mode of the CloudEvents MQTT binding | structured mode: the payload is a
//! CloudEvent in JSON |
//! | QoS 1, stored | PUBACK | PUBACK |
//! | QoS 1, not stored | PUBACK with a reason code and the reason | the connection is closed without PUBACK: the device
//! sends again |
//! | QoS 0 | at most once; what cannot be taken is counted and dropped | the same |
//! | QoS 2 | DISCONNECT 0x9B (`Maximum QoS` is 1) | the connection is closed |
//! | retain | DISCONNECT 0x9A (`Retain Available` is 0) | has no effect |
//! | SUBSCRIBE | SUBACK 0x87 | SUBACK 0x80 |
//! | no credentials, bad ones, or no topic | CONNACK 0x86 with the reason | CONNACK 4 |
//! | may publish nothing to the topic | CONNACK 0x87 with the reason | CONNACK 5 |
//! | may not publish this event, or no longer | PUBACK 0x87 | the connection is closed without PUBACK |
//! | the token or certificate has ended | DISCONNECT 0x87 | the connection is closed |
//! | the topic was removed | PUBACK 0x90 | the connection is closed without PUBACK |
//! | will | CONNACK 0x83: there would be no client left to answer if it is not stored | CONNACK 5 |
//!
//! Which topic a device means is the host name of its TLS handshake (SNI, RFC 6066, section 3): one of the topic's hosts. A
//! device that cannot choose that name says the topic by its user name, `<namespace>/<topic>`. Where both name a topic it
//! must be the same one (else CONNACK 0x87, 5). Every other user name has no meaning.
//! The name a device publishes to has no meaning: the event's own attributes say what it is. The password is a token of a
//! ServiceAccount for that topic; a device with a client certificate needs none. No session is kept (`Session Present` is
//! 0), so nothing expires; a device that comes again with its client identifier ends its older connection. Beyond
//! the receive maximum a device is not disconnected but read no further.

pub mod answer;
pub mod clients;
pub mod connection;
pub mod session;

pub use connection::Mqtt;
