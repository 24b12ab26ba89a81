//! What may reach the handler's pods, where the cluster's network enforces it.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{Input, child};
use crate::handler::template::without_nulls;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::kubernetes::scrapers::scrapers;

/// Nothing reaches the pods but what the specification allows: events are fetched by the sidecar, and whoever reached
/// the container could post events of his own. Probes come from the node, which every network lets through. Whoever scrapes
/// metrics reaches the sidecar's port alone, where only the pod itself can begin a drain.
pub fn handler(input: &Input<'_>) -> Child {
    let name = names::handler(&input.owner.name);
    let spec = &input.handler.spec;
    let mut ingress =
        spec.network_policy.as_ref().and_then(|network| network.ingress.clone()).unwrap_or_else(|| json!([]));
    without_nulls(&mut ingress);
    if let (Some(rules), Some(scrapers)) = (ingress.as_array_mut(), scrapers(input.args, names::SIDECAR_PORT)) {
        rules.push(scrapers);
    }
    let value: Value = json!({
        "metadata": input.owner.metadata(&name, &names::handler_labels(&input.owner.name, &spec.topic)),
        "spec": {
            "podSelector": {"matchLabels": names::handler_selector(&input.owner.name)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    });
    child::<NetworkPolicy>(&name, value)
}
