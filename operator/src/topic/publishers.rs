//! Workloads that publish over NATS: for each an account on the broker, and a Secret with what it takes to use it.
//!
//! The account first, so that a Secret that can be mounted also works. And before an account its name in the status, so
//! that it is known to whoever has to remove it. What fails for one publisher is no reason for the topic, or for
//! another publisher, not to work.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::{Authority, LeafRequest, Usage};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::layout::{self, BROKER_PORT};
use tidegate_crds::EventTopic;
use tidegate_crds::topic::EventTopicStatus;
use time::OffsetDateTime;

use crate::apply::{Child, apply};
use crate::authority;
use crate::broker::desired::{child, encoded};
use crate::broker::topics::{Topic, broker_of};
use crate::brokers::BrokerKey;
use crate::context::{Context, Owner};
use crate::error::Error;
use crate::names;
use crate::ownership::belongs_to;
use crate::report;
use crate::status::patch;
use crate::topic::rules;

/// The publishers as they are now.
#[derive(Debug, Default)]
pub struct Publishers {
    /// The publishers that have an account, or may have one.
    pub names: Vec<String>,
    /// What was not done, and why.
    pub troubles: Vec<String>,
}

/// Makes accounts and Secrets be as the topic wants them, and removes those of publishers it no longer names.
///
/// # Errors
/// The API server did not record which publisher is about to have an account, so nothing was done.
pub async fn ensure(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    authority: &Authority,
    system: &System,
) -> Result<Publishers, Error> {
    let wanted = &wanted(topic)?;
    let before = topic.status.as_ref().map(|status| status.nats_publishers.as_slice()).unwrap_or_default();
    take_down(context, owner, topic, before, wanted).await?;
    let mut found = Publishers { names: wanted.clone(), ..Publishers::default() };
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &owner.namespace);
    for name in wanted {
        if let Err(error) = make(context, owner, topic, &secrets, authority, system, name).await {
            report::failed(context, topic, &error).await;
            found.troubles.push(format!("NATS publisher {name}: {error}"));
        }
    }
    for name in before.iter().filter(|name| !wanted.contains(name)) {
        if let Err(error) = remove(owner, topic, &secrets, authority, system, name).await {
            tracing::warn!(topic = owner.name, publisher = name, %error, "not removed yet");
            found.names.push(name.clone());
            found.troubles.push(format!("NATS publisher {name} is not removed yet: {error}"));
        }
    }
    Ok(found)
}

/// The names of those that there are to be.
fn wanted(topic: &EventTopic) -> Result<Vec<String>, Error> {
    Ok(rules::nats_names(&Topic::of(topic)?.publishers))
}

/// An operator that ends between an account and the status that tells of it would leave one that is never removed.
async fn take_down(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    before: &[String],
    wanted: &[String],
) -> Result<(), Error> {
    let new = wanted.iter().filter(|name| !before.contains(name));
    let nats_publishers: Vec<String> = before.iter().chain(new).cloned().collect();
    if nats_publishers.len() == before.len() {
        return Ok(());
    }
    let status = EventTopicStatus { nats_publishers, ..topic.status.clone().unwrap_or_default() };
    patch(context, topic, owner, topic.status.as_ref(), &status).await
}

async fn make(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    secrets: &Api<Secret>,
    authority: &Authority,
    system: &System,
    name: &str,
) -> Result<(), Error> {
    let now = OffsetDateTime::now_utc();
    let id = Topic::of(topic)?.id;
    system.ensure(&authority.publisher_account(&id, name, now)?).await?;
    let present = secrets.get_opt(&names::publisher(&owner.name, name)).await?;
    let secret = secret(owner, &broker_of(topic), &id, authority, name, present.as_ref(), now)?;
    apply(context, owner, &secret).await
}

/// Removes the accounts of all publishers of a topic that goes. Their Secrets go with their owner.
///
/// # Errors
/// The broker is away or refuses.
pub async fn remove_all(topic: &EventTopic, authority: &Authority, system: &System) -> Result<(), Error> {
    let id = Topic::of(topic)?.id;
    for name in topic.status.iter().flat_map(|status| &status.nats_publishers) {
        system.remove_publisher(authority, &id, name).await?;
    }
    Ok(())
}

/// Removing an account needs all brokers.
async fn remove(
    owner: &Owner,
    topic: &EventTopic,
    secrets: &Api<Secret>,
    authority: &Authority,
    system: &System,
    name: &str,
) -> Result<(), Error> {
    let secret = names::publisher(&owner.name, name);
    let present = secrets.get_opt(&secret).await?;
    if present.is_some_and(|present| belongs_to(&present.metadata, &owner.reference)) {
        secrets.delete(&secret, &DeleteParams::default()).await?;
    }
    Ok(system.remove_publisher(authority, &Topic::of(topic)?.id, name).await?)
}

/// Everything a NATS client needs: address, subject, certificates, and the user both as two files and in the one that
/// NATS's own tools read.
fn secret(
    owner: &Owner,
    broker: &BrokerKey,
    topic: &TopicId,
    authority: &Authority,
    name: &str,
    present: Option<&Secret>,
    now: OffsetDateTime,
) -> Result<Child, Error> {
    let user = authority.publisher_user(topic, name, now)?;
    let leaf = LeafRequest { name: format!("publisher {name}"), hosts: Vec::new(), usage: Usage::Client };
    let mut data = authority::identity(authority, present, &leaf, Some(&user), now)?;
    let jwt = data.get(tidegate_broker_client::identity::file::USER_JWT).cloned().unwrap_or_default();
    data.insert("user.creds".into(), credentials(&User { jwt, seed: user.seed }));
    data.insert("url".into(), format!("tls://{}:{BROKER_PORT}", names::broker_host(&broker.name, &broker.namespace)));
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
