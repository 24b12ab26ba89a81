//! The child objects of a topic, one file each.

mod certificates;
mod network_policy;
pub mod routes;
mod services;
mod statefulset;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ApiResource;
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_crds::EventTopic;
use time::OffsetDateTime;

use crate::apply::Child;
use crate::args::Args;
use crate::authority;
use crate::context::Owner;
use crate::error::Error;
use crate::names;
use crate::topic::desired::routes::RouteTrust;
use crate::topic::observe::Observed;
use crate::topic::settings::Settings;

/// All children of a topic. Applying destructures this, so that none can be forgotten.
#[derive(Clone, Debug)]
pub struct Children {
    pub authority: Child,
    pub ca: Child,
    pub broker_secret: Child,
    pub ingress_secret: Child,
    pub routes_secret: Option<Child>,
    pub config: Child,
    pub headless: Child,
    pub service: Child,
    pub disruption_budget: Child,
    pub network_policy: Child,
    pub statefulset: Child,
}

/// What the children are made from.
pub struct Input<'a> {
    pub topic: &'a EventTopic,
    pub owner: &'a Owner,
    pub settings: &'a Settings,
    pub authority: &'a Authority,
    pub observed: &'a Observed,
    /// What brokers trust on their routes; `None`: there are none.
    pub routes: Option<RouteTrust>,
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
        ca: certificates::ca(input),
        headless: services::headless(input),
        service: services::client(input),
        disruption_budget: disruption_budget(input),
        network_policy: network_policy::broker(input),
        statefulset: statefulset::broker(input, &config, &broker_secret, routes_secret.as_ref())?,
        broker_secret,
        ingress_secret,
        routes_secret,
        config,
    })
}

/// The root of trust. Kept volumes are worthless without it, so like them it has no owner: with them it is deleted
/// in the topic's end, or kept and found again by a topic of the same name.
fn authority_secret(input: &Input<'_>) -> Child {
    let mut metadata =
        input.owner.metadata(&names::authority(&input.owner.name), &names::topic_labels(&input.owner.name));
    metadata["ownerReferences"] = json!([]);
    let value = json!({"metadata": metadata, "type": "Opaque", "data": encoded(authority::to_data(input.authority))});
    child::<Secret>(&names::authority(&input.owner.name), value).adopting()
}

fn disruption_budget(input: &Input<'_>) -> Child {
    let name = names::broker(&input.owner.name);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::topic_labels(&input.owner.name)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names::broker_selector(&input.owner.name)}},
    });
    child::<PodDisruptionBudget>(&name, value)
}

/// A child of this type from its JSON.
pub(crate) fn child<K: kube::Resource<DynamicType = ()>>(name: &str, mut value: Value) -> Child {
    let resource = ApiResource::erase::<K>(&());
    value["apiVersion"] = Value::from(resource.api_version.clone());
    value["kind"] = Value::from(resource.kind.clone());
    Child { resource, name: name.to_owned(), value, adopts: false }
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
