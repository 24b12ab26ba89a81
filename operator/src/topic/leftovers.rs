//! What handlers left on a broker that was away when they were deleted.
//!
//! A handler is not held back by a broker that may never come back. It leaves an annotation on its topic, and whoever
//! reconciles the topic when the broker is there again removes the account. Its consumers are found by themselves
//! ([`super::broker`]).

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_broker_admin::push::System;
use tidegate_crds::EventTopic;

use crate::context::{Context, Owner};
use crate::reconcile::error::Error;
use crate::sessions::brokers::TopicKey;

/// A handler's UID follows it; the value is the handler's name in the topic's account.
const PREFIX: &str = "left-by-handler.tidegate.io/";

/// Writes down that a handler goes and leaves its account on the broker of this topic. No topic: nothing to write.
///
/// # Errors
/// The API server did not take it.
pub async fn note(context: &Context, topic: &TopicKey, known_as: &str, handler: &Owner) -> Result<(), Error> {
    let api: Api<EventTopic> = Api::namespaced(context.client.clone(), &topic.namespace);
    match api.patch(&topic.name, &PatchParams::default(), &annotation(&handler.reference.uid, json!(known_as))).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what was left. What cannot be removed yet is left for the next time.
///
/// # Errors
/// The API server did not take down that it is done.
pub async fn remove(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    authority: &Authority,
    system: &System,
) -> Result<(), Error> {
    let api: Api<EventTopic> = Api::namespaced(context.client.clone(), &owner.namespace);
    for (key, handler) in topic.annotations() {
        let Some(uid) = key.strip_prefix(PREFIX) else { continue };
        if let Err(error) = system.remove_handler(authority, handler, uid).await {
            tracing::warn!(topic = owner.name, namespace = owner.namespace, handler, %error, "not removed yet");
            continue;
        }
        let written = api.patch(&owner.name, &PatchParams::default(), &annotation(uid, Value::Null)).await?;
        context.written.note(owner.key::<EventTopic>(), written.meta());
        tracing::info!(topic = owner.name, namespace = owner.namespace, handler, "removed: its handler is gone");
    }
    Ok(())
}

fn annotation(uid: &str, value: Value) -> Patch<Value> {
    let mut annotations = serde_json::Map::new();
    annotations.insert(format!("{PREFIX}{uid}"), value);
    Patch::Merge(json!({"metadata": {"annotations": annotations}}))
}
