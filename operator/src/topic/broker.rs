//! The broker's inside: the topic's account and its streams.

use async_nats::jetstream::stream::Info;
use k8s_openapi::api::core::v1::Pod;
use tidegate_broker_admin::{Authority, consumers, streams};
use time::OffsetDateTime;

use crate::brokers::TopicKey;
use crate::context::{Context, Owner};
use crate::error::Error;
use crate::pods;
use crate::topic::observe::Observed;
use crate::topic::settings::Settings;

/// How far the broker's inside is.
#[derive(Debug)]
pub enum Inside {
    /// No broker container runs yet; why, in words.
    Starting(String),
    /// It runs, but did not do what was asked.
    Failed(Error),
    /// All there.
    Ready {
        /// The stream of events.
        events: Box<Info>,
        /// The stream of dead letters.
        dead_letters: Box<Info>,
        /// How many handlers have a consumer.
        consumers: usize,
    },
}

/// Makes account and streams be as they should be.
pub async fn ensure(
    context: &Context,
    owner: &Owner,
    settings: &Settings,
    authority: &Authority,
    observed: &Observed,
) -> Inside {
    let running = observed.pods.iter().filter(|pod| runs(pod)).count();
    // A cluster of three has a leader from two on.
    let needed = usize::try_from(settings.replicas / 2 + 1).unwrap_or(1);
    if running < needed {
        return Inside::Starting(
            pods::why_waiting(&observed.pods).unwrap_or_else(|| format!("{running} of {needed} broker pods run")),
        );
    }
    inside(context, owner, settings, authority).await.unwrap_or_else(Inside::Failed)
}

async fn inside(context: &Context, owner: &Owner, settings: &Settings, authority: &Authority) -> Result<Inside, Error> {
    let key = TopicKey { namespace: owner.namespace.clone(), name: owner.name.clone() };
    let broker = context.brokers.get(&key, authority, settings.replicas).await?;
    broker.system.ensure(&authority.topic_account(OffsetDateTime::now_utc())?).await?;
    let [events, dead_letters] =
        streams::ensure(&broker.js, &settings.streams).await.map_err(|error| Error::Broker(error.to_string()))?;
    let consumers = consumers::list(&broker.js).await?.len();
    Ok(Inside::Ready { events: Box::new(events), dead_letters: Box::new(dead_letters), consumers })
}

/// Does the broker container of this pod run?
fn runs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && containers.filter(|container| container.name == "nats").any(|container| container.started == Some(true))
}
