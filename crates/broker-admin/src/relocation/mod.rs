//! A handler's place in its topic, moved to another event, or to another number of lanes.
//!
//! Nobody may pull meanwhile: the caller has ended the handler's sidecars and shut the handler out
//! ([`crate::push::System::shut_out_handler`]), so no acknowledgement of the time before can settle what comes again.
//! What a sidecar remembers of settled events goes with it. Each function comes to the same end when it is called again,
//! so a caller that ended in the middle of one is followed by another one that begins it again.

mod lanes;
mod shelf;
mod target;

use tidegate_broker_client::layout;

use crate::api::Broker;
use crate::consumers::{ConsumersFailure, Handler, put_one};
use crate::positions::Restart;

pub use lanes::{Floors, are_drained, floors, lanes_of};
pub use shelf::{Scan, ShelfError, has_room, remove_from, sort_into_lanes};
pub use target::{NoTarget, Target, resolve};

/// Makes all consumers of the handler begin after this sequence, whatever they had delivered, and removes those that it
/// is not to have. The events that were delivered and not acknowledged are forgotten, and so is how often they were
/// delivered.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn begin_after(broker: &Broker, handler: &Handler, sequence: u64) -> Result<(), ConsumersFailure> {
    // Made anew: `CONSUMER.RESET` keeps the filter, and leads before its beginning only a consumer that began with the
    // stream's first event.
    crate::consumers::delete(broker, &handler.name).await?;
    for mut config in handler.configs() {
        config.deliver_policy = Restart::After(sequence).deliver_policy();
        put_one(broker, layout::EVENT_STREAM, &config).await?;
    }
    Ok(())
}
