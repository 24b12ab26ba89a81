//! The handlers that have, or are to have, a place in a topic.

use std::sync::Arc;

use kube::{Api, ResourceExt as _};
use tidegate_broker_client::layout;
use tidegate_crds::{EventHandler, EventTopic};

use crate::context::{Context, Owner};
use crate::handler::reference;
use crate::kubernetes::watches::get;
use crate::reconcile::error::Error;
use crate::topic::key;

/// The handlers of the topic, and all others that have something `on_broker` (by their name in the topic's account, with
/// their UID where that is known). What the operator has seen suffices for those that are as the operator wrote them last;
/// nothing of a handler is taken for gone before the API server has said so.
pub(super) async fn handlers_of(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    on_broker: &[(&str, Option<&str>)],
) -> Result<Vec<Arc<EventHandler>>, Error> {
    let own = owner.namespace.as_str();
    let stores = &context.stores;
    let mut handlers = Vec::new();
    for handler in stores.handlers_of(&key(owner)) {
        let name = reference::known_as(&handler);
        let has_place = || on_broker.iter().any(|(known, _)| *known == name);
        // Of those that only name the topic, however many, nothing is asked.
        if !(stores.admits_handler(topic, &handler) || has_place()) {
            continue;
        }
        if let Some(as_seen) = Owner::of(handler.as_ref()) {
            handlers.extend(context.current(handler, &as_seen).await?);
        }
    }
    for (known, uid) in on_broker {
        let (namespace, name) = layout::handler_named(own, known);
        let is_it = |handler: &EventHandler| {
            handler.namespace().as_deref() == Some(namespace)
                && handler.name_any() == name
                && uid.is_none_or(|uid| handler.metadata.uid.as_deref() == Some(uid))
        };
        // The broker may say what it likes.
        if handlers.iter().any(|handler| is_it(handler)) || !stores.is_namespace(namespace) {
            continue;
        }
        match get(&stores.handlers, namespace, name).filter(|handler| is_it(handler)) {
            Some(handler) => handlers.push(handler),
            None => {
                let api: Api<EventHandler> = Api::namespaced(context.client.clone(), namespace);
                handlers.extend(api.get_opt(name).await?.map(Arc::new));
            }
        }
    }
    Ok(handlers)
}
