//! The end of a handler.

use std::time::Duration;

use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use tidegate_crds::EventHandler;
use tokio::time::timeout;

use super::{observe, reference, subscribe};
use crate::context::{Context, Owner};
use crate::kubernetes::finalizer;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::topic::leftovers;

/// How long a handler's deletion waits for the broker at a time.
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// And in all: then the handler goes, and what it has on the broker is removed later.
const LET_GO_AFTER_SECONDS: i64 = 10;

/// Its consumer and its rights on the broker go first; Deployment and Secret go with their owner.
///
/// # Errors
/// The broker or the API server is away: the handler must not go yet.
pub(super) async fn run(handler: &EventHandler, owner: &Owner, context: &Context) -> Result<Action, Error> {
    if reference::other_namespace(handler).is_some() && !reference::was_let_in(handler) {
        // Nothing was made of it at the topic that it names: nothing is done there, and nothing told of it.
        finalizer::remove(context, handler, owner).await?;
        return Ok(Action::await_change());
    }
    let key = reference::topic_of(handler);
    let unsubscribed = match observe::topic(context, &key).await? {
        Ok(topic) => {
            let removed = timeout(UNSUBSCRIBE_TIMEOUT, subscribe::remove(context, owner, handler, &topic)).await;
            removed.unwrap_or_else(|_| Err(Error::Broker(format!("no answer within {UNSUBSCRIBE_TIMEOUT:?}"))))
        }
        // Nothing can be undone on a broker that is not there; one that comes back with its retained events
        // removes what this handler left when the topic is reconciled.
        Err(not_yet) if matches!(not_yet.reason, "TopicNotFound" | "TopicDeleting") => Ok(()),
        // How it is with the topic is not for those whom it does not grant any more.
        Err(_) if !observe::is_granted(context, handler) => Err(Error::Broker("it cannot be reached".into())),
        Err(not_yet) => Err(Error::Broker(not_yet.message)),
    };
    if let Err(error) = unsubscribed {
        let since = handler.metadata.deletion_timestamp.as_ref().map(|since| since.0);
        let waited = since.map_or(0, |since| jiff::Timestamp::now().duration_since(since).as_secs());
        if waited < LET_GO_AFTER_SECONDS {
            return Err(error);
        }
        leftovers::note(context, &key, &reference::known_as(handler), owner).await?;
        let note = format!(
            "let go without its broker ({error}): what it left there is removed when EventTopic {} is ready again",
            reference::shown_topic(handler)
        );
        report::event(context, handler, EventType::Normal, "LeftOnBroker", &note).await;
    }
    finalizer::remove(context, handler, owner).await?;
    Ok(Action::await_change())
}
