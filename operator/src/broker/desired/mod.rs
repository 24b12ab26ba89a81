//! The child objects of a broker, one file each.

mod certificates;
mod network_policy;
mod services;
mod statefulset;
mod topics;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ApiResource;
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_crds::EventBroker;
use time::OffsetDateTime;

use crate::args::Args;
use crate::broker::observe::Observed;
use crate::broker::scale::Scale;
use crate::broker::settings::Settings;
use crate::broker::topics::Topic;
use crate::broker::trust::Trust;
use crate::context::Owner;
use crate::identity::{authority, keys};
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::reconcile::error::Error;

pub(super) use self::statefulset::{claim, server};

/// All children of a broker. Applying destructures this, so that none can be forgotten.
#[derive(Clone, Debug)]
pub struct Children {
    pub authority: Child,
    pub broker_secret: Child,
    pub ingress_secret: Child,
    pub routes_secret: Child,
    pub topics: Child,
    pub config: Child,
    pub headless: Child,
    pub service: Child,
    pub access: Vec<Child>,
    pub disruption_budget: Child,
    pub network_policy: Child,
    pub statefulset: Child,
}

/// What the children are made from.
pub struct Input<'a> {
    pub broker: &'a EventBroker,
    pub owner: &'a Owner,
    pub settings: &'a Settings,
    pub authority: &'a Authority,
    pub observed: &'a Observed,
    /// How many servers it has now.
    pub scale: &'a Scale,
    /// Whether its servers are known to be a cluster already.
    pub is_formed: bool,
    /// The topics that the ingress serves.
    pub topics: &'a [Topic],
    /// By what it recognises publishers.
    pub trust: &'a Trust,
    pub args: &'a Args,
    pub now: OffsetDateTime,
}

/// The children as they should be.
///
/// # Errors
/// The authority is damaged.
pub fn children(input: &Input<'_>) -> Result<Children, Error> {
    let broker_secret = certificates::broker(input)?;
    let ingress_secret = certificates::ingress(input)?;
    let routes_secret = certificates::routes(input)?;
    let config = statefulset::configuration(input)?;
    Ok(Children {
        authority: authority_secret(input),
        topics: topics::file(input)?,
        headless: services::headless(input),
        service: services::client(input),
        access: services::access(input),
        disruption_budget: disruption_budget(input),
        network_policy: network_policy::broker(input),
        statefulset: statefulset::broker(input)?,
        broker_secret,
        ingress_secret,
        routes_secret,
        config,
    })
}

/// The root of trust, in the operator's namespace. Kept volumes are worthless without it, so like them it has no owner:
/// with them it is deleted in the broker's end, or kept and found again by a broker of the same name.
pub(super) fn authority_secret(input: &Input<'_>) -> Child {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    let name = names::authority(broker, namespace);
    let mut labels = names::broker_labels(broker);
    labels.insert(names::BROKER_NAMESPACE_LABEL.into(), namespace.clone());
    let value = json!({
        "metadata": {"name": name, "namespace": input.args.pod_namespace, "labels": labels, "ownerReferences": []},
        "type": "Opaque",
        "data": encoded(keys::to_data(input.authority)),
    });
    child::<Secret>(&name, value).adopting().within(&input.args.pod_namespace)
}

fn disruption_budget(input: &Input<'_>) -> Child {
    let name = names::broker(&input.owner.name);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(&input.owner.name)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names::broker_selector(&input.owner.name)}},
    });
    child::<PodDisruptionBudget>(&name, value)
}

/// A child of this type from its JSON.
pub(crate) fn child<K: kube::Resource<DynamicType = ()>>(name: &str, mut value: Value) -> Child {
    let resource = ApiResource::erase::<K>(&());
    value["apiVersion"] = Value::from(resource.api_version.clone());
    value["kind"] = Value::from(resource.kind.clone());
    Child { resource, name: name.to_owned(), namespace: None, value, adopts: false, replaces: None }
}

/// A Secret's `data`.
pub(crate) fn encoded(data: authority::Data) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    data.into_iter()
        .map(|(key, value)| (key, Value::from(STANDARD.encode(value))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
