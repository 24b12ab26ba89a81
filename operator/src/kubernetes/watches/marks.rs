//! Marks: what of an object matters to the operator, as a number that changes with it.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use tidegate_crds::conditions::kind;
use tidegate_crds::{EventBroker, EventTopic};

/// Changes when somebody changes what the operator applied; where the API server counts generations, not with the
/// status.
pub fn child_mark(meta: &ObjectMeta) -> u64 {
    let version = meta.resource_version.as_deref().filter(|_| meta.generation.is_none());
    let owners: Vec<_> = meta.owner_references.iter().flatten().map(|owner| (&owner.uid, owner.controller)).collect();
    hash(&(
        &meta.uid,
        meta.generation,
        version,
        &meta.labels,
        &meta.annotations,
        owners,
        meta.deletion_timestamp.is_some(),
    ))
}

/// Changes with everything of a topic or handler but its status.
pub fn resource_mark<K: Resource<DynamicType = ()>>(resource: &K) -> u64 {
    let meta = resource.meta();
    let deleted = meta.deletion_timestamp.is_some();
    hash(&(&meta.uid, meta.generation, &meta.labels, &meta.annotations, &meta.finalizers, deleted))
}

/// Changes with what grants depend on of a namespace, and when it is deleted.
pub fn namespace_mark<K: Resource<DynamicType = ()>>(namespace: &K) -> u64 {
    let meta = namespace.meta();
    hash(&(&meta.uid, &meta.labels, meta.deletion_timestamp.is_some()))
}

/// Changes with what handlers depend on of their topic.
pub fn mark_for_handlers(topic: &EventTopic) -> u64 {
    let conditions = topic.status.iter().flat_map(|status| &status.conditions);
    let streams = conditions.into_iter().find(|condition| condition.type_ == kind::STREAM_READY);
    let ready = streams.is_some_and(|streams| streams.status == "True");
    // What a topic that is not ready says is in its handlers' conditions.
    let why = streams.map(|streams| streams.message.as_str()).filter(|_| !ready);
    let (spec, meta) = (&topic.spec, &topic.metadata);
    let reason = streams.map(|streams| streams.reason.as_str()).filter(|_| !ready);
    hash(&(
        &meta.uid,
        meta.deletion_timestamp.is_some(),
        ready,
        reason,
        why,
        (&spec.broker.name, &spec.broker.namespace),
        format!("{:?} {:?}", spec.routing, spec.handlers),
    ))
}

/// The conditions of a broker that are in those of its topics.
pub const OF_TOPICS: [&str; 5] =
    [kind::BROKER_AVAILABLE, kind::READY, kind::STALLED, kind::TOKENS_ACCEPTED, kind::CERTIFICATES_ACCEPTED];

/// Changes with what topics depend on of their broker.
pub fn mark_for_topics(broker: &EventBroker) -> u64 {
    let conditions = broker.status.iter().flat_map(|status| &status.conditions);
    let conditions: Vec<_> = conditions
        .filter(|condition| OF_TOPICS.contains(&condition.type_.as_str()))
        .map(|condition| (&condition.type_, &condition.status, &condition.message))
        .collect();
    let storage = broker.status.as_ref().and_then(|status| status.storage.as_ref());
    let usable = storage.map(|storage| storage.usable_bytes);
    let servers = broker.status.as_ref().map(|status| status.replicas);
    let audit = broker.status.as_ref().and_then(|status| status.audit.as_ref());
    let audit = audit.map(|audit| (&audit.damaged, &audit.lost));
    let meta = &broker.metadata;
    hash(&(&meta.uid, meta.generation, meta.deletion_timestamp.is_some(), conditions, usable, servers, audit))
}

/// Changes with everything.
pub fn any_change<K: Resource<DynamicType = ()>>(object: &K) -> u64 {
    hash(&(&object.meta().uid, &object.meta().resource_version))
}

fn hash<T: Hash>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
