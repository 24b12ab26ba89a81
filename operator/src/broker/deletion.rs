//! The end of a broker: what becomes of its volumes and keys.
//!
//! While it lives nothing of its data hangs on an owner: neither the claims (their StatefulSet retains them, so that
//! deleting that takes no data) nor the Secret with the keys. If events of deleted topics are retained on it, it is made
//! sure here that nothing takes volumes and keys, before it is said; else both are deleted here.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tidegate_crds::EventBroker;

use crate::broker::observe::selected;
use crate::broker::scale::Scale;
use crate::context::{Context, Owner};
use crate::kubernetes::names::{self, FIELD_MANAGER};
use crate::kubernetes::ownership::belongs_to;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::sessions::brokers::{BrokerKey, TopicKey};

/// On the Secret with a broker's keys, which lasts as long as its volumes: the name of a deleted topic whose events are
/// retained follows it after a slash, and its namespace and a dot come before it, where that is not the broker's. The
/// value is how many bytes it was promised.
const RETAINED: &str = "retained-topic.tidegate.io";

fn retained_annotation(topic: &TopicKey, broker_namespace: &str) -> String {
    let TopicKey { namespace, name } = topic;
    if namespace == broker_namespace { format!("{RETAINED}/{name}") } else { format!("{namespace}.{RETAINED}/{name}") }
}

fn retained_topic(annotation: &str, broker_namespace: &str) -> Option<TopicKey> {
    let (domain, name) = annotation.split_once('/')?;
    let namespace =
        if domain == RETAINED { broker_namespace } else { domain.strip_suffix(RETAINED)?.strip_suffix('.')? };
    Some(TopicKey { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Writes down that events of a deleted topic are retained on its broker, and how many bytes were promised to it; `None`:
/// that there are none.
///
/// # Errors
/// The API server did not take it. A broker without keys has no events either.
pub async fn note_retained(
    context: &Context,
    broker: &BrokerKey,
    topic: &TopicKey,
    promised: Option<i64>,
) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.pod_namespace);
    let mut annotations = serde_json::Map::new();
    let key = retained_annotation(topic, &broker.namespace);
    annotations.insert(key, promised.map_or(Value::Null, |bytes| json!(bytes.to_string())));
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    let name = names::authority(&broker.name, &broker.namespace);
    gone(secrets.patch(&name, &PatchParams::default(), &patch).await)
}

/// Takes back what was written down of retained topics: there is no volume, and so none of their events. (A namespace that
/// was deleted took the volumes with it, and not the Secret.)
///
/// # Errors
/// The API server did not take it.
pub async fn forget_retained(context: &Context, broker: &BrokerKey) -> Result<(), Error> {
    for (topic, _) in context.stores.retained(&context.args.pod_namespace, broker) {
        note_retained(context, broker, &topic, None).await?;
    }
    Ok(())
}

/// The deleted topics whose events are retained, and how many bytes were promised to each. A number that is none counts
/// as nothing: somebody else wrote it.
pub fn retained<K: kube::Resource>(keys: &K, broker_namespace: &str) -> Vec<(TopicKey, u64)> {
    let of = |(key, value): (&String, &String)| Some((retained_topic(key, broker_namespace)?, value.parse().ok()?));
    keys.annotations().iter().filter_map(of).collect()
}

/// What the keys of a broker say of retained topics now. The API server is asked: what was seen last may be from before the
/// end of a topic that is seen no longer.
///
/// # Errors
/// The API server did not answer.
pub async fn retained_now(context: &Context, broker: &BrokerKey) -> Result<Vec<(TopicKey, u64)>, Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.pod_namespace);
    let keys = secrets.get_metadata_opt(&names::authority(&broker.name, &broker.namespace)).await?;
    Ok(keys.map(|keys| retained(&keys, &broker.namespace)).unwrap_or_default())
}

/// What holds a broker's data, read from the API server itself.
struct Storage {
    statefulsets: Api<StatefulSet>,
    claims: Api<PersistentVolumeClaim>,
    /// In the operator's namespace.
    secrets: Api<Secret>,
    /// The Secret with the keys.
    authority: String,
}

/// Keeps the broker's data if topics want that, else deletes it.
///
/// # Errors
/// It is not done yet: the broker must not go.
pub async fn settle(context: &Context, broker: &EventBroker, owner: &Owner) -> Result<(), Error> {
    let (client, namespace) = (&context.client, &owner.namespace);
    let storage = Storage {
        statefulsets: Api::namespaced(client.clone(), namespace),
        claims: Api::namespaced(client.clone(), namespace),
        secrets: Api::namespaced(client.clone(), &context.args.pod_namespace),
        authority: names::authority(&owner.name, namespace),
    };
    let keys = storage.secrets.get_opt(&storage.authority).await?;
    let topics: Vec<String> =
        keys.iter().flat_map(|keys| retained(keys, namespace)).map(|(topic, _)| topic.shown_in(namespace)).collect();
    if topics.is_empty() {
        return storage.delete(owner, keys.as_ref()).await;
    }
    let kept = storage.retain(&owner.name, &topics).await?;
    report::event(context, broker, EventType::Normal, "StorageRetained", &kept).await;
    Ok(())
}

impl Storage {
    /// Nothing takes the data any more; says what there is.
    async fn retain(&self, broker: &str, topics: &[String]) -> Result<String, Error> {
        let name = names::broker(broker);
        let statefulset = self.statefulsets.get_opt(&name).await?;
        let servers = statefulset.as_ref().and_then(Scale::recorded).map(|scale| scale.pods);
        if statefulset.as_ref().is_some_and(takes_claims) {
            let policy = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}});
            self.statefulsets.patch(&name, &params(), &Patch::Merge(policy)).await?;
        }
        let claims = self.claims.list(&selected(broker)).await?.items;
        let (removed, claims): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| is_of_removed(&claim.name_any(), &name, servers));
        // A broker of the name would begin with what a server had before it left the others.
        for claim in &removed {
            gone(self.claims.delete(&claim.name_any(), &exactly(claim.uid())).await)?;
        }
        for claim in &claims {
            // The StatefulSet's controller would take its reference back too: not if that is gone by then.
            if let Some(patch) = without_owners(claim, |owner| owner.kind == "StatefulSet") {
                self.claims.patch(&claim.name_any(), &params(), &patch).await?;
            }
        }
        let kept: Vec<String> = claims
            .iter()
            .map(|claim| match claim.metadata.deletion_timestamp {
                None => claim.name_any(),
                Some(_) => format!("{}, which somebody else has deleted and which goes", claim.name_any()),
            })
            .collect();
        let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        Ok(format!(
            "events of deleted topics with deletionPolicy: Retain are on it ({}): volumes ({kept}) and Secret {} are kept. A broker of the same name has them again; delete volumes and Secret to be rid of the events.",
            topics.join(", "),
            self.authority
        ))
    }

    /// The keys first, as they were read: whoever has written in between that a topic's events are retained is not passed
    /// over, and from then on there is nowhere to write it. Then the StatefulSet: it would make claims again as long as it is
    /// there.
    async fn delete(&self, owner: &Owner, keys: Option<&Secret>) -> Result<(), Error> {
        if let Some(keys) = keys {
            gone(self.secrets.delete(&self.authority, &unchanged(keys)).await)?;
        }
        let broker = &owner.name;
        let name = names::broker(broker);
        if let Some(statefulset) = self.statefulsets.get_opt(&name).await?
            && belongs_to(&statefulset.metadata, &owner.reference)
        {
            gone(self.statefulsets.delete(&name, &exactly(statefulset.uid())).await)?;
        }
        for claim in self.claims.list(&selected(broker)).await?.items {
            if claim.metadata.deletion_timestamp.is_none() {
                gone(self.claims.delete(&claim.name_any(), &exactly(claim.uid())).await)?;
            }
        }
        Ok(())
    }
}

/// Whether a claim is that of a server that was removed from the cluster: it is of none of so many. While a broker is
/// getting smaller there are some for a while.
fn is_of_removed(claim: &str, statefulset: &str, servers: Option<i32>) -> bool {
    let ordinal = claim.strip_prefix("data-").and_then(|name| name.strip_prefix(statefulset)?.strip_prefix('-'));
    let ordinal = ordinal.and_then(|ordinal| ordinal.parse::<i32>().ok());
    ordinal.zip(servers).is_some_and(|(ordinal, servers)| ordinal >= servers)
}

fn takes_claims(statefulset: &StatefulSet) -> bool {
    let policy = statefulset.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.is_some_and(|policy| policy.when_deleted.as_deref() == Some("Delete"))
}

/// Takes the owners away with which the object would go.
fn without_owners<K: kube::Resource>(object: &K, goes_with: fn(&OwnerReference) -> bool) -> Option<Patch<Value>> {
    let meta = object.meta();
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    if !owners.iter().any(goes_with) {
        return None;
    }
    let others: Vec<_> = owners.iter().filter(|owner| !goes_with(owner)).collect();
    // The resource version: somebody else's reference is not undone.
    Some(Patch::Merge(json!({"metadata": {"ownerReferences": others, "resourceVersion": meta.resource_version}})))
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// This object, and not one that has its name by now.
fn exactly(uid: Option<String>) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::default() }
}

/// This object, and only as it was read.
fn unchanged<K: kube::Resource>(read: &K) -> DeleteParams {
    let resource_version = read.resource_version();
    DeleteParams { preconditions: Some(Preconditions { uid: read.uid(), resource_version }), ..DeleteParams::default() }
}

fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), Error> {
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_server_left_is_not_retained() {
        let of = |claim: &str, servers| is_of_removed(claim, "default-broker", servers);
        assert!(of("data-default-broker-1", Some(1)) && of("data-default-broker-2", Some(1)));
        assert!(!of("data-default-broker-0", Some(1)) && !of("data-default-broker-2", Some(3)));
        assert!(!of("data-default-broker-2", None), "nothing is known");
        assert!(!of("data-default-broker-x", Some(1)) && !of("data-other-broker-2", Some(1)) && !of("mine", Some(1)));
    }
}
