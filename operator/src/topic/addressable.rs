//! Where events are published to, and whether they are taken there (pure).

use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::audience;
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::topic::Address;

use crate::broker::topics::Topic;
use crate::context::Owner;
use crate::kubernetes::names;
use crate::topic::inside::Inside;
use crate::topic::observe::Observed;
use crate::topic::rules;

/// The addresses of a topic; `None`: the broker has no certificate authority yet, so nobody could verify the address.
pub fn address(owner: &Owner, observed: &Observed) -> Option<Address> {
    let host = names::topic_host(&owner.name, &owner.namespace);
    let authority = observed.authority.as_ref()?;
    let broker = names::broker_host(&observed.broker_key.name, &observed.broker_key.namespace);
    Some(Address {
        url: format!("https://{host}"),
        mqtt_url: Some(format!("mqtts://{host}:{}", names::MQTT_PORT)),
        nats_url: Some(format!("tls://{broker}:{BROKER_PORT}")),
        ca_certs: Some(authority.trusted_servers()),
        audience: Some(audience(&TopicId::new(owner.namespace.clone(), owner.name.clone()).ok()?)),
    })
}

/// Whether events that are published are taken.
pub fn finding(observed: &Observed, inside: &Inside) -> Finding {
    let found = |status, reason: &str, message: &str| Finding::new(kind::ADDRESSABLE, status, reason, message);
    match inside {
        Inside::Ready { served, .. } if served.is_closed => {
            let message = "spec.publishers has no room beside those of the other topics of the broker, and all publishers are refused: name fewer publishers, sources and types (a beginning followed by '*' stands for many), or put the topic on another broker";
            found(Status::False, "TooManyPublishers", message).stalled()
        }
        Inside::Ready { is_served: false, .. } => {
            found(Status::False, "NotServed", "not every ingress of the broker has heard of this topic yet")
        }
        Inside::Ready { served, .. } => unverified(observed, served)
            .unwrap_or_else(|| found(Status::True, "Served", "every ingress of the broker serves it")),
        Inside::Starting(_) | Inside::Failed(_) => {
            found(Status::Unknown, "NotAsked", "the ingresses were not asked yet")
        }
    }
}

/// Publishers that are admitted, and refused all the same, because their broker cannot verify what they show.
fn unverified(observed: &Observed, served: &Topic) -> Option<Finding> {
    let conditions = observed.broker.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let name = &observed.broker_key.name;
    let found = |reason, message| Finding::new(kind::ADDRESSABLE, Status::False, reason, message);
    if rules::has_service_accounts(&served.publishers)
        && let Some(told) = Finding::kept(kind::TOKENS_ACCEPTED, conditions)
        && told.status == Status::False
    {
        return Some(found("TokensNotAccepted", format!("EventBroker {name}: {}", told.message)));
    }
    if !rules::has_certificates(&served.publishers) {
        return None;
    }
    if observed.broker.spec.client_certificates.is_none() {
        let message = format!(
            "spec.publishers names a certificate, but EventBroker {name} takes none: name the authorities that sign them in its spec.clientCertificates"
        );
        return Some(found("CertificatesNotAccepted", message).stalled());
    }
    let told = Finding::kept(kind::CERTIFICATES_ACCEPTED, conditions).filter(|told| told.status == Status::False)?;
    Some(found("CertificatesNotAccepted", format!("EventBroker {name}: {}", told.message)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_broker_admin::push::AccountState;
    use tidegate_crds::{EventBroker, EventTopic};

    use super::*;
    use crate::broker::scale::Scale;
    use crate::sessions::brokers::BrokerKey;
    use crate::topic::publishers::Publishers;

    fn topic(spec: serde_json::Value) -> EventTopic {
        let metadata = json!({"name": "orders", "namespace": "shop"});
        let value =
            json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": metadata, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    fn observed(spec: serde_json::Value, conditions: &[(&str, &str)]) -> Observed {
        let told = |(kind, status): &(&str, &str)| json!({"type": kind, "status": status, "reason": "R", "message": "why", "lastTransitionTime": "2026-01-31T12:00:00Z"});
        let conditions: Vec<_> = conditions.iter().map(told).collect();
        let broker: EventBroker = serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": "default"}, "spec": spec,
            "status": {"conditions": conditions},
        }))
        .unwrap();
        let broker_key = BrokerKey { namespace: "shop".into(), name: "default".into() };
        let topic_namespace = "shop".to_owned();
        Observed {
            scale: Scale::new(1),
            topic_namespace,
            broker_key,
            broker: broker.into(),
            authority: None,
            pods: Vec::new(),
            trouble: None,
        }
    }

    #[test]
    fn publishers_that_cannot_be_verified_are_said() {
        let (no_tokens, no_certificates) = (("TokensAccepted", "False"), ("CertificatesAccepted", "False"));
        let authorities = json!({"clientCertificates": {"caConfigMap": {"name": "cas"}}});
        let certificate = json!({"publishers": [{"certificate": {"uri": "spiffe://a/b"}}]});
        let over_nats = json!({"publishers": [{"nats": "a"}]});
        for (publishers, broker, conditions, reason, stalled) in [
            (json!({}), json!({}), vec![], "Served", false),
            (json!({}), json!({}), vec![no_tokens], "TokensNotAccepted", false),
            (json!({}), json!({}), vec![("TokensAccepted", "Unknown")], "Served", false),
            (over_nats, authorities.clone(), vec![no_tokens, no_certificates], "Served", false),
            (certificate.clone(), json!({}), vec![], "CertificatesNotAccepted", true),
            (certificate.clone(), authorities.clone(), vec![no_tokens], "Served", false),
            (certificate, authorities, vec![no_certificates], "CertificatesNotAccepted", false),
        ] {
            let served = Box::new(Topic::of(&topic(publishers)).unwrap());
            let publishers = Publishers::default();
            let inside =
                Inside::Ready { is_served: true, served, stored: None, publishers, account: AccountState::InForce };
            let found = finding(&observed(broker, &conditions), &inside);
            assert_eq!((found.reason.as_str(), found.is_stalled), (reason, stalled), "{}", found.message);
            assert_eq!(found.is_true(), reason == "Served");
        }
    }
}
