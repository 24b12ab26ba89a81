//! What the broker and the ingress prove themselves with, and the certificate that verifies them.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use tidegate_broker_admin::{AuthorityError, LeafRequest, Usage};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::message_id;

use super::routes::RouteTrust;
use super::{Input, child, encoded};
use crate::apply::Child;
use crate::authority;
use crate::error::Error;
use crate::names;

/// The broker's certificate, for clients.
pub fn broker(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::broker(&input.owner.name);
    let mut hosts = service_hosts(input);
    hosts.push(pod_hosts(input));
    let leaf = LeafRequest { name: name.clone(), hosts, usage: Usage::Server };
    let present = input.observed.broker_secret.as_ref();
    let data = authority::identity(input.authority, present, &leaf, None, input.now)?;
    Ok(secret(input, &name, data))
}

/// The ingress's certificate, for HTTPS and towards the broker, its broker user, and the topic's key for message ids.
pub fn ingress(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::ingress(&input.owner.name);
    let user = input.authority.ingress_user(input.now)?;
    // One certificate: it serves publishers, and is a client of the broker.
    let leaf = LeafRequest { name: name.clone(), hosts: service_hosts(input), usage: Usage::Both };
    let present = input.observed.ingress_secret.as_ref();
    let mut data = authority::identity(input.authority, present, &leaf, Some(&user), input.now)?;
    data.insert(file::MESSAGE_ID_KEY.into(), message_id::key_text(&input.authority.message_id_key()?));
    Ok(secret(input, &name, data))
}

/// What brokers show each other on their routes, and trust there. A single broker has none.
pub fn routes(input: &Input<'_>) -> Result<Option<Child>, Error> {
    let Some(trust) = input.routes else { return Ok(None) };
    let name = names::routes(&input.owner.name);
    let own =
        input.authority.routes.as_ref().ok_or_else(|| AuthorityError::Damaged("no authority for routes".into()))?;
    let clients = input.authority.clients();
    let both = format!("{}{}", clients.certificate, own.certificate);
    let (signer, trusted) = match trust {
        RouteTrust::Shared => (&clients, &both),
        RouteTrust::Presented => (own, &both),
        RouteTrust::Own => (own, &own.certificate),
    };
    let leaf = LeafRequest { name: name.clone(), hosts: vec![pod_hosts(input)], usage: Usage::Both };
    let data = authority::certified(signer, trusted, input.observed.routes_secret.as_ref(), &leaf, input.now)?;
    Ok(Some(secret(input, &name, data)))
}

/// What publishers verify the topic's address with.
pub fn ca(input: &Input<'_>) -> Child {
    let name = names::ca(&input.owner.name);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::topic_labels(&input.owner.name)),
        "data": {file::CA: input.authority.ca_certificate},
    });
    child::<ConfigMap>(&name, value)
}

fn secret(input: &Input<'_>, name: &str, data: authority::Data) -> Child {
    let value = json!({
        "metadata": input.owner.metadata(name, &names::topic_labels(&input.owner.name)),
        "type": "Opaque",
        "data": encoded(data),
    });
    child::<Secret>(name, value)
}

/// Every name under which any broker pod is reached.
fn service_hosts(input: &Input<'_>) -> Vec<String> {
    let (topic, namespace) = (&input.owner.name, &input.owner.namespace);
    let host = names::broker_host(topic, namespace);
    let short = names::broker(topic);
    vec!["localhost".into(), short.clone(), format!("{short}.{namespace}"), format!("{host}.cluster.local"), host]
}

/// Every name under which one broker pod is reached.
fn pod_hosts(input: &Input<'_>) -> String {
    format!("*.{}.{}.svc", names::broker_headless(&input.owner.name), input.owner.namespace)
}
