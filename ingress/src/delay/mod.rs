//! Events that are published later: stored in the stream `later` until the broker says that their time has come, and
//! then in the stream of events like any other.
//!
//! ```text
//! intake ──▶ time ──▶ delayer ──▶ later.delayed.<key> ┈┈ broker's schedule ┈┈▶ due.delayed.<key> ──▶ mover ──▶ commit
//!                      room
//! ```
//!
//! One clock decides, that of the broker which leads the stream. Ours is only compared with the bound of a time.

mod delayer;
mod due;
mod mover;
mod room;
mod time;

use tidegate_broker_client::later;
use tidegate_cloudevents::Event;

pub use self::delayer::{Delayed, Delayer};
pub use self::mover::Mover;
pub use self::time::DeliveryTime;
use crate::problem::Problem;

/// An event that is to be published later, without the attribute that says so, and when.
pub type Timed = (Event, DeliveryTime);

/// The events of a request that are to be published now, and those that are to be published later.
///
/// # Errors
/// A time is none.
pub fn split(events: Vec<Event>) -> Result<(Vec<Event>, Vec<Timed>), Problem> {
    if events.iter().all(|event| event.attribute(later::ATTRIBUTE).is_none()) {
        return Ok((events, Vec::new()));
    }
    let (mut now, mut delayed) = (Vec::new(), Vec::new());
    for mut event in events {
        match event.take_extension(later::ATTRIBUTE) {
            None => now.push(event),
            Some(value) => delayed.push((event, DeliveryTime::parse(&value)?)),
        }
    }
    Ok((now, delayed))
}
