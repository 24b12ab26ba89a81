//! The mark of a key that waits for a person to release it: a message on the shelf, once for each key.

use tidegate_broker_client::held_key::Mark;
use tidegate_wire::nats::Message;

use super::Replacement;
use crate::broker::publish_ack;

/// The message of a mark, for where there is none.
pub fn over_none(mark: &Mark) -> Option<Replacement> {
    Replacement::new(0, mark)
}

/// Whether the answer to a mark says that there is one. It is stored where there is none, so that a second one is
/// refused.
pub fn is_there(answer: &Message) -> bool {
    match publish_ack::sequence(answer) {
        Ok(_) => true,
        Err(error) => error.is_outrun(),
    }
}
