//! Workloads that publish over NATS: for each an account on the broker, and a Secret with what it takes to use it.
//!
//! The account first, so that a Secret that can be mounted also works.

use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tidegate_broker_admin::Authority;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_client::layout::{self, BROKER_PORT};
use tidegate_crds::EventTopic;
use time::OffsetDateTime;

use crate::apply::{Child, apply};
use crate::authority;
use crate::brokers::Broker;
use crate::context::Owner;
use crate::error::Error;
use crate::names;
use crate::topic::desired::{child, encoded};

/// Makes accounts and Secrets be as the topic wants them, and removes those of publishers it no longer names.
/// Returns who has an account.
///
/// # Errors
/// The broker or the API server is away or refuses.
pub async fn ensure(
    client: &Client,
    owner: &Owner,
    topic: &EventTopic,
    authority: &Authority,
    broker: &Broker,
) -> Result<Vec<String>, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &owner.namespace);
    let now = OffsetDateTime::now_utc();
    for name in &topic.spec.nats_publishers {
        broker.system.ensure(&authority.publisher_account(name, now)?).await?;
        let present = secrets.get_opt(&names::publisher(&owner.name, name)).await?;
        let secret = secret(owner, authority, name, present.as_ref(), now)?;
        apply(client, &owner.namespace, &owner.reference, &secret).await?;
    }
    // Whose account there is was written down when it was made.
    let mut present = topic.spec.nats_publishers.clone();
    let before = topic.status.iter().flat_map(|status| &status.nats_publishers);
    for name in before.filter(|name| !topic.spec.nats_publishers.contains(name)) {
        remove(&secrets, owner, &names::publisher(&owner.name, name)).await?;
        // Removing needs all brokers; a topic that works is not to be called broken because one is away.
        if let Err(error) = broker.system.remove_publisher(authority, name).await {
            tracing::warn!(topic = owner.name, publisher = name, %error, "not removed yet");
            present.push(name.clone());
        }
    }
    Ok(present)
}

async fn remove(secrets: &Api<Secret>, owner: &Owner, name: &str) -> Result<(), Error> {
    let Some(secret) = secrets.get_opt(name).await? else { return Ok(()) };
    if secret.owner_references().iter().any(|reference| reference.uid == owner.reference.uid) {
        secrets.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Everything a NATS client needs: address, subject, certificates, and the user both as two files and in the one that
/// NATS's own tools read.
fn secret(
    owner: &Owner,
    authority: &Authority,
    name: &str,
    present: Option<&Secret>,
    now: OffsetDateTime,
) -> Result<Child, Error> {
    let user = authority.publisher_user(name, now)?;
    let mut data = authority::identity(authority, present, name, Vec::new(), Some(&user), now)?;
    let jwt = data.get(tidegate_broker_client::identity::file::USER_JWT).cloned().unwrap_or_default();
    data.insert("user.creds".into(), credentials(&User { jwt, seed: user.seed }));
    data.insert("url".into(), format!("tls://{}:{BROKER_PORT}", names::broker_host(&owner.name, &owner.namespace)));
    data.insert("subject".into(), layout::PUBLISH_SUBJECT.into());
    let secret = names::publisher(&owner.name, name);
    let metadata = owner.metadata(&secret, &names::topic_labels(&owner.name));
    let value = json!({"metadata": metadata, "type": "Opaque", "data": encoded(data)});
    Ok(child::<Secret>(&secret, value))
}

/// The credentials file of NATS's tools and client libraries.
fn credentials(user: &User) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.jwt, user.seed
    )
}
