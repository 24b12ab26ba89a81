//! The broker's inside: the topic's account, its streams, and who may publish over NATS.

use std::collections::HashSet;

use async_nats::jetstream::stream::Info;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tidegate_broker_admin::{Authority, consumers, streams};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout;
use tidegate_crds::{EventHandler, EventTopic};
use time::OffsetDateTime;

use crate::brokers::{Broker, TopicKey};
use crate::context::{Context, Owner};
use crate::error::Error;
use crate::pods;
use crate::topic::observe::Observed;
use crate::topic::publishers::{self, Publishers};
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
        /// What is stored; `None` on a Direct topic.
        stored: Option<Box<Stored>>,
        /// The publishers over NATS.
        publishers: Publishers,
    },
}

/// What a topic's broker keeps.
#[derive(Debug)]
pub struct Stored {
    /// The stream of events.
    pub events: Info,
    /// The stream of dead letters.
    pub dead_letters: Info,
    /// How many handlers have a consumer.
    pub handlers: usize,
}

/// Makes account and streams be as they should be.
pub async fn ensure(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
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
    inside(context, owner, topic, settings, authority).await.unwrap_or_else(Inside::Failed)
}

async fn inside(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    settings: &Settings,
    authority: &Authority,
) -> Result<Inside, Error> {
    let key = TopicKey { namespace: owner.namespace.clone(), name: owner.name.clone() };
    let broker = context.brokers.get(&key, authority, settings.replicas).await?;
    broker.system.ensure(&authority.topic_account(settings.routing, OffsetDateTime::now_utc())?).await?;
    let stored = match settings.routing {
        Routing::Direct => None,
        Routing::Queued => {
            let [events, dead_letters] = streams::ensure(&broker.js, &settings.streams)
                .await
                .map_err(|error| Error::Broker(error.to_string()))?;
            let handlers = without_orphans(context, owner, &broker, authority).await?;
            Some(Box::new(Stored { events, dead_letters, handlers }))
        }
    };
    let publishers = publishers::ensure(context, owner, topic, authority, &broker.system).await?;
    Ok(Inside::Ready { stored, publishers })
}

/// How many handlers have a consumer. What a handler left behind that went while its topic was gone (the topic's
/// events were retained, and so was the handler's place among them) is removed.
async fn without_orphans(
    context: &Context,
    owner: &Owner,
    broker: &Broker,
    authority: &Authority,
) -> Result<usize, Error> {
    let consumers = consumers::list(&broker.js).await?;
    // Asked after the consumers, and live: a handler that has a consumer was there before it.
    let handlers: Api<EventHandler> = Api::namespaced(context.client.clone(), &owner.namespace);
    let alive: HashSet<String> =
        handlers.list(&ListParams::default()).await?.into_iter().filter_map(|handler| handler.metadata.uid).collect();
    // A handler may have several consumers.
    let subscribed: HashSet<_> = consumers
        .iter()
        .map(|consumer| (layout::handler_of(&consumer.name), consumers::handler_uid(consumer)))
        .collect();
    let mut count = 0;
    for (handler, uid) in subscribed {
        match uid {
            Some(uid) if !alive.contains(uid) => {
                // Removing needs all brokers; a topic that works is not to be called broken because one is away.
                match remove(broker, authority, handler, uid).await {
                    Ok(()) => tracing::info!(topic = owner.name, handler, "removed: its handler is gone"),
                    Err(error) => {
                        tracing::warn!(topic = owner.name, handler, %error, "not removed yet");
                        count += 1;
                    }
                }
            }
            _ => count += 1,
        }
    }
    Ok(count)
}

async fn remove(broker: &Broker, authority: &Authority, handler: &str, uid: &str) -> Result<(), Error> {
    broker.system.remove_handler(authority, handler, uid).await?;
    Ok(consumers::delete(&broker.js, handler).await?)
}

/// Does the broker container of this pod run?
fn runs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && containers.filter(|container| container.name == "nats").any(|container| container.started == Some(true))
}
