//! CloudEvents 1.0.2: the event, its JSON format, its HTTP binding (binary, structured, batched) and the reading
//! half of its MQTT binding.
//!
//! Pure: bytes and headers in, events out, and back. Nothing here reads or writes anything.
//!
//! - [`Event`] is valid by construction; [`Builder`] checks every rule of the specification.
//! - [`EventInPlace`] is one whose headers can be passed on as they are.
//! - [`json`] is the JSON event format, [`http`] the HTTP protocol binding, [`mqtt`] that of MQTT 5.
//! - [`header_value`] is the percent-encoding both the HTTP and the NATS binding use.
//! - [`Invalid`] says what is wrong with an event and what to send instead.

mod attribute;
mod event;
pub mod header_value;
pub mod http;
mod in_place;
mod invalid;
pub mod json;
pub mod media_type;
pub mod mqtt;

pub use attribute::is_allowed;
pub use event::{Builder, Event, MAX_ATTRIBUTES, MAX_ATTRIBUTES_SIZE, MAX_TYPE_SIZE, MIN_MAX_SIZE, SPEC_VERSION};
pub use http::Mode;
pub use in_place::{Attributes, EventHeader, EventInPlace};
pub use invalid::{Invalid, Malformed};
