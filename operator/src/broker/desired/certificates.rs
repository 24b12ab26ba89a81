//! What the broker and the ingress prove themselves with.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tidegate_broker_admin::{LeafRequest, Usage};
use tidegate_broker_client::identity::file;

use super::{Input, child, encoded};
use crate::identity::authority;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::reconcile::error::Error;

/// The broker's certificate, for clients.
pub fn broker(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::broker(&input.owner.name);
    let mut hosts = service_hosts(input);
    hosts.push(pod_hosts(input));
    let leaf = LeafRequest { name: name.clone(), hosts, usage: Usage::Server };
    let present = input.observed.broker_secret.as_ref();
    let data = authority::server_identity(input.authority, present, &leaf, input.now)?;
    Ok(secret(input, &name, data))
}

/// The ingress's certificates, for HTTPS and MQTT and towards the broker, its broker user, and the one that wakes the
/// broker.
///
/// Topics come and go, and a name for each would make a new certificate each time, which reaches the ingress a minute
/// later. So it is good for every Service name of a namespace. Only who publishes to this broker trusts its authority.
pub fn ingress(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::ingress(&input.owner.name);
    let user = input.authority.ingress_user(input.now)?;
    let mut hosts = service_hosts(input);
    let namespaces: BTreeSet<&str> =
        input.topics.iter().map(|topic| topic.id.namespace()).chain([input.owner.namespace.as_str()]).collect();
    for namespace in namespaces {
        hosts.extend([format!("*.{namespace}.svc"), format!("*.{namespace}.svc.cluster.local")]);
    }
    let outside = input.broker.spec.access.iter().filter(|access| access.certificate.is_none());
    for host in outside.flat_map(|access| &access.hostnames) {
        if !hosts.contains(host) {
            hosts.push(host.clone());
        }
    }
    // An ingress of an earlier version, whose pod is restarted soon, shows the broker what it shows publishers.
    let usage = if input.authority.issuers.are_separate() { Usage::Server } else { Usage::ServerAndClient };
    let leaf = LeafRequest { name: name.clone(), hosts, usage };
    let client = LeafRequest::client(&format!("ingress/{}/{}", input.owner.namespace, input.owner.name));
    let mut data = input.observed.ingress_secret.as_ref().map(authority::data).unwrap_or_default();
    let (own, now) = (input.authority, input.now);
    authority::add_leaf(&mut data, own, &leaf, [file::CERTIFICATE, file::KEY], now)?;
    authority::add_leaf(&mut data, own, &client, [file::CLIENT_CERTIFICATE, file::CLIENT_KEY], now)?;
    authority::add_trust(&mut data, own, Usage::Client);
    let wake = own.wake_user(now)?;
    authority::add_user(&mut data, own, &user, [file::USER_JWT, file::USER_SEED], now);
    authority::add_user(&mut data, own, &wake, [file::WAKE_JWT, file::WAKE_SEED], now);
    Ok(secret(input, &name, data))
}

/// What brokers show each other on their routes, and trust there. One that is alone now may have others later.
pub fn routes(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::routes(&input.owner.name);
    let leaf = LeafRequest { name: name.clone(), hosts: vec![pod_hosts(input)], usage: Usage::Peer };
    let present = input.observed.routes_secret.as_ref();
    let data = authority::server_identity(input.authority, present, &leaf, input.now)?;
    Ok(secret(input, &name, data))
}

pub(super) fn secret(input: &Input<'_>, name: &str, data: authority::Data) -> Child {
    let value = json!({
        "metadata": input.owner.metadata(name, &names::broker_labels(&input.owner.name)),
        "type": "Opaque",
        "data": encoded(data),
    });
    child::<Secret>(name, value)
}

/// Every name under which any pod of the broker is reached.
fn service_hosts(input: &Input<'_>) -> Vec<String> {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    let host = names::broker_host(broker, namespace);
    let short = names::broker(broker);
    vec!["localhost".into(), short.clone(), format!("{short}.{namespace}"), format!("{host}.cluster.local"), host]
}

/// Every name under which one pod of the broker is reached.
fn pod_hosts(input: &Input<'_>) -> String {
    format!("*.{}.{}.svc", names::broker_headless(&input.owner.name), input.owner.namespace)
}
