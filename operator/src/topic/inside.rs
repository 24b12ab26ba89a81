//! A topic on its broker: its account, its streams, and who may publish over NATS.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tidegate_broker_admin::api::StreamInfo;
use tidegate_broker_admin::handler_streams::CLOSED;
use tidegate_broker_admin::push::AccountState;
use tidegate_broker_admin::release::Places;
use tidegate_broker_admin::schedules::RefusedSchedule;
use tidegate_broker_admin::{Authority, consumers, handler_streams, schedules};
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::layout;
use tidegate_crds::topic::StreamRecord;
use tidegate_crds::{EventHandler, EventTopic};
use time::OffsetDateTime;

use crate::broker::topics::{self, Topic};
use crate::context::{Context, Owner};
use crate::handler::{reference, relocation, settings as handler_settings};
use crate::kubernetes::finalizer::{self, Phase};
use crate::kubernetes::pods::is_ready;
use crate::reconcile::error::Error;
use crate::sessions::brokers::{Broker, Place, Servers};
use crate::topic::handlers::handlers_of;
use crate::topic::look::{Lacking, Looker};
use crate::topic::loss;
use crate::topic::observe::Observed;
use crate::topic::publishers::{self, Publishers};
use crate::topic::room::{self, RoomState};
use crate::topic::serve::serve;
use crate::topic::settings::Settings;
use crate::topic::status::Journal;
use crate::topic::storage::{self, Storage};
use crate::topic::{data_lost, is_healing, key, leftovers, stream_ready};

/// How far the broker's inside is.
#[derive(Debug)]
pub enum Inside {
    /// No broker container runs yet; why, in words.
    Starting(String),
    /// It runs, but did not do what was asked.
    Failed(Error),
    /// All there.
    Ready {
        /// Whether every ingress that is there takes events for it.
        is_served: bool,
        /// The topic as they know it, or are to know it.
        served: Box<Topic>,
        /// What is stored; `None` on a Direct topic.
        stored: Option<Box<Stored>>,
        /// The publishers over NATS.
        publishers: Publishers,
        /// Its account on the broker.
        account: AccountState,
    },
}

/// What a topic's broker keeps.
#[derive(Debug)]
pub struct Stored {
    /// The stream of events.
    pub events: StreamInfo,
    /// Dead letters of all handlers, those that are gone included.
    pub dead_letters: u64,
    /// What to remember of the stream of events.
    pub record: StreamRecord,
    /// What it lacks of what there was at the last look.
    pub(super) lacking: Lacking,
    /// Whether there is room for more events.
    pub room: RoomState,
    /// Whether the broker stores what it is given.
    pub storage: Storage,
    /// What the broker refused to change about the streams, and why.
    pub refused: Option<String>,
    /// Schedules that the broker does not take.
    pub schedules: Vec<RefusedSchedule>,
    /// How many handlers have a consumer.
    pub handlers: usize,
    /// Bytes that its streams may have together; `None`: one has more than it may.
    pub claimed: Option<u64>,
}

/// Makes account and streams be as they should be. `promised`: bytes that the topic is promised.
pub async fn ensure(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    (settings, promised): (&Settings, u64),
    authority: &Authority,
    observed: &Observed,
) -> Inside {
    let running = observed.pods.iter().filter(|pod| runs(pod)).count();
    // A cluster of three has a leader from two on.
    let needed = usize::try_from(observed.scale.majority()).unwrap_or(1);
    if running < needed {
        return Inside::Starting(
            observed
                .trouble
                .as_ref()
                .map_or_else(|| format!("{running} of {needed} broker pods run"), |trouble| trouble.message.clone()),
        );
    }
    inside(context, owner, topic, (settings, promised), authority, observed).await.unwrap_or_else(Inside::Failed)
}

async fn inside(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    (settings, promised): (&Settings, u64),
    authority: &Authority,
    observed: &Observed,
) -> Result<Inside, Error> {
    let place = observed.place(authority);
    let served = topics::on_broker(context, &place.broker, topic)?;
    let servers = context.brokers.servers(&place).await?;
    let storage = (settings.routing == Routing::Queued)
        .then(|| promised.saturating_mul(observed.scale.quota(observed.broker.spec.replicas)));
    let account = authority.topic_account(&served.id, settings.routing, storage, OffsetDateTime::now_utc())?;
    let state = if stream_ready::was_refused(topic) {
        // A server without room for a larger limit keeps the smaller one in force, although it has the claims.
        servers.system.push(&account).await?;
        AccountState::Pushed
    } else {
        servers.system.ensure(&account).await?
    };
    serve(context, &place, &servers, Some((&served, state.is_pushed()))).await?;
    let stored = match settings.routing {
        Routing::Direct => None,
        Routing::Queued => {
            let broker = context.brokers.get(&key(owner), &place).await?;
            Some(Box::new(stored(context, topic, owner, settings, authority, &broker, observed).await?))
        }
    };
    leftovers::remove(context, owner, topic, authority, &servers.system).await?;
    let publishers = publishers::ensure(context, owner, topic, authority, &servers.system).await?;
    if !stream_ready::are_as_specified(topic) {
        // Its network policy lets in publishers and handlers, or no more.
        context.broker_changes.add(place.broker.clone());
    }
    let is_served = is_served(context, &place, &servers, &served, observed).await?;
    Ok(Inside::Ready { is_served, served: Box::new(served), stored, publishers, account: state })
}

/// Asks the ingresses: every one that publishers may meet must have heard of the topic. Their broker is told to look after
/// those that have not.
async fn is_served(
    context: &Context,
    place: &Place,
    servers: &Servers,
    topic: &Topic,
    observed: &Observed,
) -> Result<bool, Error> {
    let ready = observed.pods.iter().filter(|pod| is_ready(pod)).count();
    let serving = servers.ingresses.serving(&topic.id, &topic.revision()).await;
    let is_served = serving.map_err(|error| Error::Broker(error.to_string()))? >= ready.max(1);
    if !is_served {
        context.unserved.add(place.broker.clone());
        context.broker_changes.add(place.broker.clone());
    }
    Ok(is_served)
}

async fn stored(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
    settings: &Settings,
    authority: &Authority,
    broker: &Broker,
    observed: &Observed,
) -> Result<Stored, Error> {
    let key = &key(owner);
    let replicas = observed.scale.pods;
    let before = topic.status.as_ref().and_then(|status| status.stream.as_ref());
    let released = before.and_then(|before| before.released);
    let removes = settings.streams.drop_oldest || settings.streams.max_age.is_some();
    let account = authority.topic_account_id(&topics::Topic::of(topic)?.id)?;
    let end = context.ingress_reports.end(key);
    let lost_of = |events: &StreamInfo| loss::between(before?, &loss::record(events, released, removes), &end);
    let place = observed.place(authority);
    let is_missed = data_lost::is_missed(topic);
    let looker = Looker { context, place: &place, broker, settings, account: &account, is_missed };
    let (streams, lacking) = looker.look(lost_of).await?;
    let lacking = data_lost::given_up(topic, lacking);
    let subscribers = {
        let _places = broker.places().await;
        without_orphans(context, owner, topic, broker, authority).await?
    };
    let schedules =
        if streams.has_later { schedules::ensure(&broker.api, &settings.schedules).await? } else { Vec::new() };
    let refused = context.ingress_reports.refusing(key);
    // A loss that was found is on record before anything is released, which would hide it.
    let (events, room) = if settings.release_handled && lacking == Lacking::Nothing {
        // Without a record there is nothing yet that a release could be taken for a loss of.
        let journal = before.map(|_| Journal { context, topic, owner });
        room::make(&broker.api, streams.events, &subscribers.places, refused, journal.as_ref()).await?
    } else {
        let state = RoomState::as_it_is(&streams.events, refused);
        (streams.events, RoomState { misses_events: lacking.may_come_back(), ..state })
    };
    if room.is_full {
        context.ingress_reports.held(key);
    } else {
        context.ingress_reports.made_room(key);
    }
    let released = room.released.and_then(|released| i64::try_from(released).ok()).max(released);
    let seen = loss::record(&events, released, removes);
    let record = loss::remembered(before, seen, &lacking, &end, Timestamp::now());
    let last = i64::try_from(events.state.last_sequence).unwrap_or(i64::MAX);
    let leader = events.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref());
    let seen = storage::Seen {
        unanswered: &context.ingress_reports.unanswered(key),
        stands_still: storage::stands_still(topic, last),
        // A single server calls itself the leader, by the server's name and not by the pod's.
        leader: leader.filter(|_| replicas > 1),
        pods: &observed.pods,
        holders: observed.scale.holders(observed.broker.spec.replicas),
        is_changing: observed.scale.pods != observed.broker.spec.replicas
            || (replicas > 1 && observed.scale.is_changing()),
        is_healing: is_healing(&observed.broker),
        policy: context.restart_policy,
    };
    let storage = storage::judge(&seen, Timestamp::now());
    Ok(Stored {
        record,
        lacking,
        events,
        dead_letters: streams.dead_letters,
        room,
        storage,
        refused: streams.refused,
        schedules,
        handlers: subscribers.count,
        claimed: subscribers.claimed,
    })
}

/// The handlers of a topic.
struct Subscribers {
    /// How many have a consumer.
    count: usize,
    /// Their places in the topic.
    places: Places,
    /// Bytes that all streams of the topic may have; `None`: one has more than it may.
    claimed: Option<u64>,
}

/// The handlers. What a handler left behind that went while its topic was gone (the topic's
/// events were retained, and so was the handler's place among them) is removed. The broker's places are held meanwhile.
async fn without_orphans(
    context: &Context,
    owner: &Owner,
    topic: &EventTopic,
    broker: &Broker,
    authority: &Authority,
) -> Result<Subscribers, Error> {
    let consumers = consumers::list(&broker.api).await?;
    let streams = handler_streams::list(&broker.api).await?;
    // A handler may have several consumers.
    let subscribed: HashSet<_> = consumers
        .iter()
        .map(|consumer| (layout::handler_of(&consumer.name), consumers::handler_uid(consumer)))
        .collect();
    // Asked after these: a handler that has a consumer or a stream was there before it.
    let with_streams = handler_streams::handlers(&streams).map(|handler| (handler, None));
    let on_broker: Vec<_> = subscribed.iter().copied().chain(with_streams).collect();
    let handlers = handlers_of(context, owner, topic, &on_broker).await?;
    let alive: HashSet<&str> = handlers.iter().filter_map(|handler| handler.metadata.uid.as_deref()).collect();
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
    let handlers = handlers.iter().map(Arc::as_ref);
    let placed: Vec<_> = handlers.filter(|handler| reference::topic_of(handler) == key(owner)).collect();
    let names: Vec<String> = placed.iter().map(|handler| reference::known_as(handler)).collect();
    let alive = names.iter().map(String::as_str).collect();
    if let Err(error) = handler_streams::remove_orphans(&broker.api, &streams, &alive).await {
        tracing::warn!(topic = owner.name, %error, "streams of handlers that are gone are not removed yet");
    }
    let (granted, withdrawn): (Vec<_>, Vec<_>) =
        placed.into_iter().partition(|handler| context.stores.admits_handler(topic, handler));
    let places = Places {
        consumers: granted.into_iter().flat_map(consumers_of).collect(),
        withdrawn: withdrawn.into_iter().map(reference::known_as).collect(),
    };
    Ok(Subscribers { count, places, claimed: claimed(&streams) })
}

/// Bytes that streams may have together. One that was made smaller keeps what it has until that is handled or too old, and
/// then there is no such number.
fn claimed(streams: &[StreamInfo]) -> Option<u64> {
    streams.iter().try_fold(0_u64, |sum, stream| {
        // That of a handler that is gone keeps its letters, and takes no more.
        let is_closed = stream.config.max_bytes == CLOSED;
        let most = if is_closed { stream.state.bytes } else { u64::try_from(stream.config.max_bytes).ok()? };
        (stream.state.bytes <= most).then(|| sum.saturating_add(most))
    })
}

/// The consumers of a handler that was subscribed: it has the finalizer from just before that on.
fn consumers_of(handler: &EventHandler) -> Vec<String> {
    if finalizer::phase(handler) != Phase::Live || !finalizer::is_set(handler) {
        return Vec::new();
    }
    let name = reference::known_as(handler);
    match handler_settings::order(&handler.spec.delivery) {
        Order::None => vec![name],
        Order::Key { lanes } => (0..relocation::most_lanes(handler).unwrap_or(lanes))
            .map(|lane| layout::lane_consumer(&name, lane))
            .collect(),
    }
}

async fn remove(broker: &Broker, authority: &Authority, handler: &str, uid: &str) -> Result<(), Error> {
    broker.system.remove_handler(authority, handler, uid).await?;
    Ok(consumers::delete(&broker.api, handler).await?)
}

/// Does the broker container of this pod run?
fn runs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && containers.filter(|container| container.name == "nats").any(|container| container.started == Some(true))
}
