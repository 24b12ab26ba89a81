//! What the broker and the ingress prove themselves with, and the certificate that verifies them.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use tidegate_broker_client::identity::file;
use tidegate_broker_client::message_id;

use super::{Input, child, encoded};
use crate::apply::Child;
use crate::authority;
use crate::error::Error;
use crate::names;

/// The broker's certificate, for clients and for its peers.
pub fn broker(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::broker(&input.owner.name);
    let data = authority::identity(
        input.authority,
        input.observed.broker_secret.as_ref(),
        &name,
        hosts(input),
        None,
        input.now,
    )?;
    Ok(secret(input, &name, data))
}

/// The ingress's certificate, for HTTPS and towards the broker, its broker user, and the topic's key for message ids.
pub fn ingress(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::ingress(&input.owner.name);
    let user = input.authority.ingress_user(input.now)?;
    let present = input.observed.ingress_secret.as_ref();
    let mut data = authority::identity(input.authority, present, &name, hosts(input), Some(&user), input.now)?;
    data.insert(file::MESSAGE_ID_KEY.into(), message_id::key_text(&input.authority.message_id_key()?));
    Ok(secret(input, &name, data))
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

/// Every name under which a broker pod is reached.
fn hosts(input: &Input<'_>) -> Vec<String> {
    let (topic, namespace) = (&input.owner.name, &input.owner.namespace);
    let host = names::broker_host(topic, namespace);
    let short = names::broker(topic);
    vec![
        "localhost".into(),
        short.clone(),
        format!("{short}.{namespace}"),
        format!("{host}.cluster.local"),
        host,
        format!("*.{}.{namespace}.svc", names::broker_headless(topic)),
    ]
}
