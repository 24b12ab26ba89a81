//! Which topic a handler names, and what the handler is called there (pure).

use kube::ResourceExt as _;
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::kind;

use crate::reconcile::error::Error;
use crate::sessions::brokers::TopicKey;
use crate::topic::settings::invalid;

/// The topic that a handler names.
pub fn topic_of(handler: &EventHandler) -> TopicKey {
    let own = || handler.namespace().unwrap_or_default();
    TopicKey { namespace: handler.spec.topic_namespace.clone().unwrap_or_else(own), name: handler.spec.topic.clone() }
}

/// That one, and the topics that it sends to.
pub fn topics_of(handler: &EventHandler) -> Vec<TopicKey> {
    let mut topics = vec![topic_of(handler)];
    for destination in [&handler.spec.reply, &handler.spec.dead_letter].into_iter().flatten() {
        let namespace = handler.metadata.namespace.clone().unwrap_or_default();
        let topic = TopicKey { namespace, name: destination.topic.clone() };
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    topics
}

/// The namespace of the topic, where that is not the handler's own.
pub fn other_namespace(handler: &EventHandler) -> Option<&str> {
    handler.spec.topic_namespace.as_deref().filter(|other| handler.metadata.namespace.as_deref() != Some(other))
}

/// The handler's name in its topic's account.
pub fn known_as(handler: &EventHandler) -> String {
    let namespace = handler.namespace().unwrap_or_default();
    layout::handler_name(&topic_of(handler).namespace, &namespace, &handler.name_any())
}

/// Whether its topic has granted it something: only the operator writes this, so nobody claims it by what they write.
pub fn was_let_in(handler: &EventHandler) -> bool {
    let Some(status) = &handler.status else { return false };
    let mut conditions = status.conditions.iter();
    status.position.is_some()
        || status.selector.is_some()
        || conditions.any(|known| known.type_ == kind::GRANTED && known.status == "True")
}

/// The topic's name, with its namespace where that is not the handler's own.
pub fn shown_topic(handler: &EventHandler) -> String {
    match other_namespace(handler) {
        Some(other) => format!("{other}/{}", handler.spec.topic),
        None => handler.spec.topic.clone(),
    }
}

/// Checks what the schema cannot, because it does not know the handler's namespace.
///
/// # Errors
/// Its dead letters would come back to it without an end.
pub fn check(handler: &EventHandler) -> Result<(), Error> {
    let is_circle = handler.spec.dead_letter.as_ref().is_some_and(|to| to.topic == handler.spec.topic);
    if is_circle && other_namespace(handler).is_none() {
        return Err(invalid(
            "deadLetter.topic",
            "must be another topic, or each failing event would come again without an end; leave deadLetter out to keep dead letters beside the topic",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn handler(more: Value) -> EventHandler {
        let mut spec = json!({"topic": "orders", "template": {}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "billing", "namespace": "web"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_topic_is_of_the_handlers_namespace_unless_another_is_named() {
        for (more, namespace, name, shown) in [
            (json!({}), "web", "billing", "orders"),
            (json!({"topicNamespace": "web"}), "web", "billing", "orders"),
            (json!({"topicNamespace": "shop"}), "shop", "billing=web", "shop/orders"),
        ] {
            let handler = handler(more);
            assert_eq!(topic_of(&handler), TopicKey { namespace: namespace.into(), name: "orders".into() });
            assert_eq!((known_as(&handler).as_str(), shown_topic(&handler).as_str()), (name, shown));
        }
    }

    #[test]
    fn dead_letters_do_not_go_back_to_their_topic() {
        for (more, is_right) in [
            (json!({"deadLetter": {"topic": "orders"}}), false),
            (json!({"deadLetter": {"topic": "orders"}, "topicNamespace": "web"}), false),
            (json!({"deadLetter": {"topic": "orders"}, "topicNamespace": "shop"}), true),
            (json!({"deadLetter": {"topic": "failed"}}), true),
        ] {
            assert_eq!(check(&handler(more.clone())).is_ok(), is_right, "{more}");
        }
    }
}
