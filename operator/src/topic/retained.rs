//! What an earlier topic of the same name left on the broker: its events, where `deletionPolicy` was Retain. Pure.

use tidegate_broker_client::contract::Routing;

use crate::reconcile::error::Error;
use crate::sessions::brokers::{BrokerKey, TopicKey};

/// Refuses a Direct topic that would take the account of retained events: the streams of an account without JetStream
/// stop, and a server of a cluster deletes those that it takes for orphans.
///
/// # Errors
/// There are such events; the message says what to do.
pub(super) fn refuse_direct(
    routing: Routing,
    topic: &TopicKey,
    broker: &BrokerKey,
    retained: &[(TopicKey, u64)],
) -> Result<(), Error> {
    if routing != Routing::Direct || !retained.iter().any(|(known, _)| known == topic) {
        return Ok(());
    }
    let broker = broker.shown_in(&topic.namespace);
    Err(Error::refused(
        "EventsRetained",
        format!(
            "EventBroker {broker} retains the events of an earlier topic of this name, which a Direct topic would end. Delete this topic and use another name; or make it with routing: Queued, which has those events again, and to be rid of them set deletionPolicy: Delete on that one and delete it"
        ),
    ))
}
