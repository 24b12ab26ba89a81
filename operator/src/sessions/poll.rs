//! Sessions with the brokers: how far the handlers are, what their sidecars report, how much the topics hold.
//!
//! Each broker that is reached has a task of its own ([`broker`]), with a deadline for each question: one that hangs delays
//! no other. What has to be reconciled because of the answers is triggered; the reconcilers do all the rest.

mod broker;
mod tell;
mod triggers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use self::broker::Session;
pub use self::triggers::Triggers;
use crate::broker::room;
use crate::context::Context;
use crate::kubernetes::watches::get;
use crate::reconcile::pace::{self, Key, rolling_brokers, rolling_handlers};
use crate::sessions::brokers::{BrokerKey, Servers, TopicKey};
use crate::sessions::by_handler::HandlerKey;

const PERIOD: Duration = Duration::from_secs(1);
/// How often what is remembered of resources that are gone is forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(60);

/// Keeps a session for each broker that is reached, until it is dropped.
pub async fn run(context: Context, triggers: Triggers) {
    context.stores.ready().await;
    context.first_round.begin(context.stores.resources());
    let origin = Instant::now();
    let mut sessions: HashMap<BrokerKey, (Arc<Servers>, AbortOnDropHandle<()>)> = HashMap::new();
    let (mut ticks, mut forget) = (ticks(PERIOD), ticks(FORGET_PERIOD));
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                for broker in keep(&context) {
                    for topic in room::refused(&context, &broker) {
                        triggers.topic(&topic).await;
                    }
                }
                give_turns(&context, &triggers).await;
            }
            _ = forget.tick() => forget_gone(&context),
            () = context.brokers.news() => {}
            changed = context.reports.changed() => {
                for (namespace, name) in changed {
                    triggers.handler(&namespace, &name).await;
                }
            }
            changed = context.broker_changes.next() => {
                for broker in changed {
                    triggers.broker(&broker).await;
                }
            }
            changed = context.outdated.next() => triggers.outdated(changed).await,
            changed = context.ingress_reports.changed() => {
                for topic in changed {
                    triggers.topic(&topic).await;
                }
            }
        }
        let reached = context.brokers.reached();
        sessions.retain(|broker, (servers, _)| reached.get(broker).is_some_and(|now| Arc::ptr_eq(now, servers)));
        for (broker, servers) in reached {
            sessions.entry(broker.clone()).or_insert_with(|| {
                let session = Session::new(context.clone(), triggers.clone(), broker, servers.clone(), origin);
                (servers, AbortOnDropHandle::new(tokio::spawn(session.run())))
            });
        }
    }
}

/// Ends the sessions of topics that are no more, however they went, and forgets the handlers that are no more. Answers
/// which brokers have room again.
fn keep(context: &Context) -> HashSet<BrokerKey> {
    let stores = &context.stores;
    let is_topic = |topic: &TopicKey| get(&stores.topics, &topic.namespace, &topic.name).is_some();
    let is_broker = |broker: &BrokerKey| get(&stores.brokers, &broker.namespace, &broker.name).is_some();
    context.brokers.keep(is_topic, is_broker);
    context.authorities.keep(is_broker);
    let with_room = context.promises.keep(&stores.topics.state());
    let is_alive = |(namespace, name): &HandlerKey| get(&stores.handlers, namespace, name).is_some();
    context.lag.keep(is_alive);
    context.retries.keep(is_alive);
    context.keys.keep(is_alive);
    context.reports.keep(is_alive);
    context.ingress_reports.keep(is_topic);
    with_room
}

async fn give_turns(context: &Context, triggers: &Triggers) {
    let (now, stores) = (Instant::now(), &context.stores);
    let of_broker = |key: &Key| pace::generation_of_broker(stores, key);
    for (namespace, name) in context.pace.brokers.next(&rolling_brokers(stores), of_broker, now) {
        triggers.broker(&BrokerKey { namespace, name }).await;
    }
    let of_handler = |key: &Key| pace::generation_of_handler(stores, key);
    for (namespace, name) in context.pace.handlers.next(&rolling_handlers(stores), of_handler, now) {
        triggers.handler(&namespace, &name).await;
    }
}

fn forget_gone(context: &Context) {
    let stores = &context.stores;
    context.slots.forget_idle();
    context.applied.keep(|(kind, namespace, name)| stores.child_mark(kind, namespace, name).is_some());
    context.written.keep(|key| stores.has(key));
    context.first_round.keep(|key| stores.has(key));
    if context.first_round.duration().is_some() {
        stores.listed.clear();
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
