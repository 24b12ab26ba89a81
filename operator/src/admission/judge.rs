//! What is said to a change of a resource. Pure.

use kube::Resource;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use tidegate_crds::handler::{self, EventHandler};
use tidegate_crds::{EventBroker, EventHandlerSpec, EventTopic};

use crate::reconcile::error::Error;
use crate::{broker, handler as handlers, topic};

/// A resource that is judged before it is stored.
pub trait Judged: Resource<DynamicType = ()> {
    /// What a person writes.
    type Spec: PartialEq;

    /// What this person wrote.
    fn spec(&self) -> &Self::Spec;

    /// What each reconcile begins with.
    ///
    /// # Errors
    /// The specification can never work, and why.
    fn check(&self) -> Result<(), Error>;
}

impl Judged for EventTopic {
    type Spec = tidegate_crds::EventTopicSpec;

    fn spec(&self) -> &Self::Spec {
        &self.spec
    }

    fn check(&self) -> Result<(), Error> {
        topic::settings::Settings::of(&self.spec, 1).map(drop)
    }
}

impl Judged for EventBroker {
    type Spec = tidegate_crds::EventBrokerSpec;

    fn spec(&self) -> &Self::Spec {
        &self.spec
    }

    fn check(&self) -> Result<(), Error> {
        broker::settings::check_labels(&self.spec)?;
        broker::settings::Settings::of(&self.spec).map(drop)
    }
}

impl Judged for EventHandler {
    type Spec = EventHandlerSpec;

    fn spec(&self) -> &Self::Spec {
        &self.spec
    }

    fn check(&self) -> Result<(), Error> {
        handlers::reference::check(self)?;
        handlers::template::check_labels(&self.spec.template)?;
        handlers::settings::Settings::of(&self.spec).map(drop)
    }
}

/// Allows the change, or refuses it as the API server refuses a value that its schema does not allow (422, `Invalid`).
///
/// What leaves the specification as it is is always allowed: a finalizer must be able to go, and a label to come, even
/// where an older Tidegate took what this one would not.
pub fn judge<K: Judged>(request: &AdmissionRequest<K>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let Some(wanted) = &request.object else { return response };
    if !is_new(wanted, request.old_object.as_ref()) {
        return response;
    }
    match wanted.check() {
        Ok(()) => response,
        Err(error) => refusal(response, &error),
    }
}

/// Whether there is anything to judge.
pub fn is_new<K: Judged>(wanted: &K, old: Option<&K>) -> bool {
    old.is_none_or(|old| old.spec() != wanted.spec()) && wanted.meta().deletion_timestamp.is_none()
}

/// The answer that refuses.
pub fn refusal(response: AdmissionResponse, error: &Error) -> AdmissionResponse {
    let mut refused = response.deny(error);
    "Invalid".clone_into(&mut refused.result.reason);
    refused.result.code = 422;
    refused
}

/// What a handler of a Direct topic asks for in vain: nothing is stored there, so nothing can be looked at again.
/// Only what differs from the defaults, which the API server has filled in.
pub fn in_vain_on_direct(spec: &EventHandlerSpec) -> Vec<String> {
    let fields = [
        ("startFrom", spec.start_from != "Latest", "it starts with what is published from now on"),
        ("delivery.order", spec.delivery.order != handler::Order::None, "events come in any order"),
        ("delivery.retry", spec.delivery.retry != handler::Retry::default(), "a failed delivery is final"),
        ("delivery.maxEventAge", spec.delivery.max_event_age.is_some(), "no event waits there"),
        ("deadLetter", spec.dead_letter.is_some(), "a failed event is not kept"),
        ("redrive", spec.redrive.is_some(), "a failed event is not kept"),
        ("release", spec.release.is_some(), "no event holds up its key"),
    ];
    let in_vain = fields.into_iter().filter(|(_, asked, _)| *asked);
    in_vain.map(|(field, _, why)| format!("spec.{field} has no effect on a Direct topic: {why}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const WRONG: &str = "data.amount >";
    const RIGHT: &str = "data.amount > 1";

    fn handler(expression: &str) -> Value {
        json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": "billing"},
            "spec": {
                "topic": "orders", "filter": {"expression": expression}, "delivery": {"port": 8080},
                "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        })
    }

    fn judged(object: Value, old: Value) -> AdmissionResponse {
        let request = json!({
            "uid": "1", "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "userInfo": {},
            "kind": {"group": "tidegate.io", "version": "v1alpha1", "kind": "EventHandler"},
            "resource": {"group": "tidegate.io", "version": "v1alpha1", "resource": "eventhandlers"},
            "object": object, "oldObject": old,
        });
        judge::<EventHandler>(&serde_json::from_value(request).unwrap())
    }

    #[test]
    fn what_can_never_work_is_refused_with_its_field() {
        assert!(judged(handler(RIGHT), Value::Null).allowed);
        let refused = judged(handler(WRONG), Value::Null);
        assert!(!refused.allowed);
        assert_eq!((refused.result.code, refused.result.reason.as_str()), (422, "Invalid"));
        assert!(refused.result.message.starts_with("spec.filter.expression"), "{}", refused.result.message);
        assert!(!judged(handler(WRONG), handler(RIGHT)).allowed);
    }

    #[test]
    fn what_is_there_already_can_still_be_changed_elsewhere_and_deleted() {
        let mut labelled = handler(WRONG);
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert!(judged(labelled, handler(WRONG)).allowed);
        let mut deleting = handler("also wrong >");
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:00Z");
        assert!(judged(deleting, handler(WRONG)).allowed);
        assert!(judged(Value::Null, handler(WRONG)).allowed, "DELETE");
    }

    /// Only here: what is stored is not held up by them.
    #[test]
    fn labels_by_which_tidegate_selects_are_refused() {
        let mut labelled = handler(RIGHT);
        labelled["spec"]["template"]["metadata"] = json!({"labels": {"app.kubernetes.io/component": "broker"}});
        assert!(judged(labelled, handler(RIGHT)).result.message.contains("labels[app.kubernetes.io/component]"));
        let broker = |key: &str| -> EventBroker {
            let spec = json!({"pods": {"labels": {key: "billing"}}});
            serde_json::from_value(json!({"metadata": {"name": "default"}, "spec": spec})).unwrap()
        };
        assert!(broker("tidegate.io/handler").check().is_err() && broker("team").check().is_ok());
    }

    #[test]
    fn only_what_was_asked_for_is_in_vain() {
        let spec = |changes: Value| {
            let mut spec = handler(RIGHT)["spec"].clone();
            spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            in_vain_on_direct(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(spec(json!({})), Vec::<String>::new());
        let told = spec(json!({"startFrom": "Earliest", "deadLetter": {"topic": "failed"}}));
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("spec.startFrom has no effect on a Direct topic"), "{told:?}");
        assert_eq!(spec(json!({"delivery": {"retry": {"maxAttempts": 2}}})).len(), 1);
        assert_eq!(spec(json!({"delivery": {"order": "Key"}, "release": {"request": "1"}})).len(), 2);
    }
}
