//! Workloads that publish over NATS: for each an account on the broker, and a Secret with what it takes to use it.
//!
//! The account first, so that a Secret that can be mounted also works. And before an account its name in the status, so
//! that it is known to whoever has to remove it. What fails for one publisher is no reason for the topic, or for
//! another publisher, not to work.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use kube::runtime::events::EventType;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::push::{AccountState, System};
use tidegate_broker_admin::{Authority, KeyRecord, LeafRequest, UserKey};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::layout::{self, BROKER_PORT};
use tidegate_crds::EventTopic;
use tidegate_crds::key::{KeyStatus, PublisherKeyStatus};
use tidegate_crds::topic::EventTopicStatus;
use time::OffsetDateTime;

use crate::broker::topics::{Topic, broker_of};
use crate::context::{Context, Owner};
use crate::identity::authority::{self, Data};
use crate::identity::credentials::{self, Credentials, KeyHistory, Wanted};
use crate::identity::user_keys;
use crate::kubernetes::apply::{Child, apply};
use crate::kubernetes::names;
use crate::kubernetes::ownership::belongs_to;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::reconcile::status::patch;
use crate::sessions::brokers::BrokerKey;
use crate::topic::rules;

/// The file with the user as NATS's tools have it, which follows from the user.
const CREDENTIALS: &str = "user.creds";

/// The publishers as they are now.
#[derive(Debug, Default)]
pub struct Publishers {
    /// The publishers that have an account, or may have one.
    pub names: Vec<String>,
    /// Their keys, as far as they have one.
    pub keys: Vec<PublisherKeyStatus>,
    /// When to look again: when a key that was replaced is to be refused, or whether an account is in force.
    pub again: Option<Duration>,
    /// What was not done, and why.
    pub troubles: Vec<String>,
}

/// What was made of one of them.
struct Made {
    key: KeyRecord,
    /// When its credentials end.
    end: Option<OffsetDateTime>,
    /// Its account on the broker.
    account: AccountState,
}

impl Publishers {
    /// This was made of this publisher.
    async fn note(&mut self, context: &Context, topic: &EventTopic, name: &str, made: Made) {
        let Made { key, end, account } = &made;
        let (handover, now) = (context.args.key_handover(), OffsetDateTime::now_utc());
        if let Some(news) = user_keys::news(key, known_key(topic, name), handover, now) {
            report::event(context, topic, EventType::Normal, "KeyReplaced", &format!("NATS publisher {name}: {news}"))
                .await;
        }
        self.again = self.again.into_iter().chain(user_keys::again(key, handover, now)).chain(account.again()).min();
        self.keys.push(PublisherKeyStatus { name: name.to_owned(), key: user_keys::status(key, *end, handover, now) });
    }
}

/// What the status says of a publisher's key.
fn known_key<'a>(topic: &'a EventTopic, name: &str) -> Option<&'a KeyStatus> {
    let known = &topic.status.as_ref()?.nats_publisher_keys;
    known.iter().find(|known| known.name == name).map(|known| &known.key)
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
        let known = known_key(topic, name);
        match make(context, owner, topic, authority, system, name).await {
            Ok(made) => found.note(context, topic, name, made).await,
            Err(error) => {
                report::failed(context, topic, &error).await;
                found.keys.extend(known.cloned().map(|key| PublisherKeyStatus { name: name.clone(), key }));
                found.troubles.push(format!("NATS publisher {name}: {error}"));
            }
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
    authority: &Authority,
    system: &System,
    name: &str,
) -> Result<Made, Error> {
    let (now, handover) = (OffsetDateTime::now_utc(), context.args.key_handover());
    let id = Topic::of(topic)?.id;
    let request = user_keys::request_of_publisher(topic, name);
    let wanted = wanted_secret(owner, &broker_of(topic), authority, &id, name)?;
    let history = KeyHistory { known: known_key(topic, name), request };
    let credentials = Credentials::find(context, owner, &wanted, &history).await?;
    let refused_before = credentials.record().refused_before(handover, now);
    let account = system.ensure(&authority.publisher_account(&id, name, refused_before, now)?).await?;
    let secret = match &credentials {
        Credentials::Kept { .. } => None,
        Credentials::Read { key, present } => {
            let user = authority.publisher_user(&id, name, key, now)?;
            let secret = secret(owner, &wanted, (key, &user), present.as_deref(), now)?;
            apply(context, owner, &secret).await?;
            Some(secret)
        }
    };
    let end = credentials.end(secret.as_ref());
    Ok(Made { key: credentials.record().clone(), end, account })
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

/// The Secret of a publisher, all but its key.
fn wanted_secret<'a>(
    owner: &Owner,
    broker: &BrokerKey,
    authority: &'a Authority,
    topic: &TopicId,
    name: &str,
) -> Result<Wanted<'a>, Error> {
    let url = format!("tls://{}:{BROKER_PORT}", names::broker_host(&broker.name, &broker.namespace));
    Ok(Wanted {
        name: names::publisher(&owner.name, name),
        labels: names::topic_labels(&owner.name),
        authority,
        leaf: LeafRequest::client(&format!("publisher/{}/{}/{name}", owner.namespace, owner.name)),
        claims: authority.publisher_claims(topic, name)?,
        files: Data::from([
            (CREDENTIALS.into(), "of the user".into()),
            ("url".into(), url),
            ("subject".into(), layout::PUBLISH_SUBJECT.into()),
        ]),
    })
}

/// Everything a NATS client needs: address, subject, certificates, and the user both as two files and in the one that
/// NATS's own tools read.
fn secret(
    owner: &Owner,
    wanted: &Wanted<'_>,
    (key, user): (&UserKey, &User),
    present: Option<&Secret>,
    now: OffsetDateTime,
) -> Result<Child, Error> {
    let mut files = authority::identity(wanted.authority, present, &wanted.leaf, Some(user), now)?;
    files.extend(wanted.files.clone());
    let jwt = files.get(tidegate_broker_client::identity::file::USER_JWT).cloned().unwrap_or_default();
    files.insert(CREDENTIALS.into(), creds(&User { jwt, seed: user.seed.clone() }));
    credentials::secret(owner, wanted, &key.record, files)
}

/// The credentials file of NATS's tools and client libraries.
fn creds(user: &User) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.jwt, user.seed
    )
}
