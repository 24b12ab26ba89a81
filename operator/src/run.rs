//! The controllers and what runs beside them.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::identity::token_keys;
use crate::kubernetes::names::{BROKER_LABEL, HANDLER_LABEL, TOPIC_LABEL};
use crate::kubernetes::watches;
use crate::kubernetes::watches::{
    Feeds, Stores, any_change, broker_of_secret, children, config, handler_of, handlers_of_granted, metadata, objects,
    ours, owner_of, resource_mark, topics_of_granted,
};
use crate::reconcile::error::Error;
use crate::reconcile::figures;
use crate::sessions::brokers::{BrokerKey, TopicKey};
use crate::sessions::poll;
use crate::{broker, handler, health, topic};

/// Resources that wait to be told of their lag.
const TRIGGERS: usize = 1024;

/// How long what was begun may take to end after `stop`: less than the grace of the chart's pod (30 s), so that the lease
/// is given back and not waited for.
const ENDING: Duration = Duration::from_secs(20);

/// Runs all controllers until `stop`. What was begun is finished, if that takes no longer than [`ENDING`]; else the next
/// operator continues it, as after a crash.
pub async fn run(context: Context, stop: CancellationToken) {
    let overdue = async {
        stop.cancelled().await;
        sleep(ENDING).await;
    };
    tokio::select! {
        () = work(context, stop.clone()) => {}
        () = overdue => tracing::warn!("what was begun has not ended in time: the next operator continues it"),
    }
}

async fn work(context: Context, stop: CancellationToken) {
    // Read first, so that no broker is without them at first.
    context.token_keys.refresh(&context.client).await;
    let (stores, feeds) = Stores::new();
    let context = Context { stores: Arc::new(stores), ..context };
    figures::export(&context.stores);
    let shared = Arc::new(context.clone());
    let (tell_handlers, handler_triggers) = mpsc::channel(TRIGGERS);
    let (tell_topics, topic_triggers) = mpsc::channel(TRIGGERS);
    let (tell_brokers, broker_triggers) = mpsc::channel(TRIGGERS);
    let (brokers, topics, handlers) = controllers(&context, feeds);
    let stopped = |stop: CancellationToken| async move { stop.cancelled().await };
    let brokers = brokers.reconcile_on(received(broker_triggers)).graceful_shutdown_on(stopped(stop.clone()));
    let topics = topics.reconcile_on(received(topic_triggers)).graceful_shutdown_on(stopped(stop.clone()));
    let handlers = handlers.reconcile_on(received(handler_triggers)).graceful_shutdown_on(stopped(stop));
    let listing = context.health.until_listed(health::LIST_TIMEOUT, shared.stores.ready());
    let sessions = poll::run(
        context.clone(),
        poll::Triggers { handlers: tell_handlers, topics: tell_topics, brokers: tell_brokers },
    );
    let keys = token_keys::run(context.clone());
    let sessions = async { tokio::join!(listing, sessions, keys) };
    let controllers = async {
        tokio::join!(
            drain(brokers.run(broker::reconcile, broker::retry, shared.clone())),
            drain(topics.run(topic::reconcile, topic::retry, shared.clone())),
            drain(handlers.run(handler::reconcile, handler::retry, shared.clone())),
        )
    };
    tokio::select! {
        _ = controllers => {}
        _ = sessions => {}
    }
}

/// All controllers, each woken by its resource, by what was made from it, topics by their brokers, and handlers by their
/// topics.
fn controllers(
    context: &Context,
    feeds: Feeds,
) -> (Controller<EventBroker>, Controller<EventTopic>, Controller<EventHandler>) {
    // No `..`: a store without a watch is never ready.
    let Feeds {
        brokers,
        brokers_for_topics,
        topics,
        topics_for_handlers,
        handlers,
        namespaces,
        namespaces_for_handlers,
        statefulsets,
        deployments,
        broker_pods,
        handler_pods,
        config_maps,
        topic_config_maps,
        services,
        topic_services,
        disruption_budgets,
        network_policies,
        handler_policies,
        broker_secrets,
        topic_secrets,
        handler_secrets,
    } = feeds;
    let (client, stores) = (&context.client, &context.stores);
    let all = config();
    let (broker, topic, handler) = (|| ours("broker"), || ours("topic"), || ours("handler"));
    let brokers =
        Controller::for_stream(objects(of(client), all.clone(), brokers, resource_mark), stores.brokers.clone())
            .watches_stream(objects(of(client), broker(), statefulsets, any_change), |set| owner_of(&set, BROKER_LABEL))
            .watches_stream(objects(of(client), broker(), broker_pods, any_change), |pod| owner_of(&pod, BROKER_LABEL))
            .watches_stream(metadata(of(client), broker(), services), |service| owner_of(&service, BROKER_LABEL))
            .watches_stream(metadata(of(client), broker(), config_maps), |config| owner_of(&config, BROKER_LABEL))
            .watches_stream(metadata(of(client), broker(), disruption_budgets), |it| owner_of(&it, BROKER_LABEL))
            .watches_stream(metadata(of(client), broker(), network_policies), |it| owner_of(&it, BROKER_LABEL))
            .watches_stream(metadata(of(client), broker(), broker_secrets), |secret| broker_of_secret(&secret));
    let (by_broker, granted) = (stores.topics_by_broker.clone(), stores.topics.clone());
    let topics = Controller::for_stream(objects(of(client), all.clone(), topics, resource_mark), stores.topics.clone())
        .watches_stream(watches::brokers_for_topics(of(client), brokers_for_topics), move |broker| {
            let key = BrokerKey { namespace: broker.namespace().unwrap_or_default(), name: broker.name_any() };
            references(by_broker.of(&key, |_| true))
        })
        .watches_stream(watches::namespaces(of(client), namespaces), move |namespace| {
            topics_of_granted(&granted, &namespace.name_any())
        })
        .watches_stream(children(of(client), topic(), topic_services), |service| owner_of(&service, TOPIC_LABEL))
        .watches_stream(children(of(client), topic(), topic_config_maps), |config| owner_of(&config, TOPIC_LABEL))
        .watches_stream(children(of(client), topic(), topic_secrets), |secret| owner_of(&secret, TOPIC_LABEL));
    let (by_topic, granted) = (stores.handlers_by_topic.clone(), stores.handlers.clone());
    let handlers =
        Controller::for_stream(objects(of(client), all.clone(), handlers, resource_mark), stores.handlers.clone())
            .watches_stream(objects(of(client), handler(), deployments, any_change), |set| handler_of(&set))
            // A pod's other labels are the template's.
            .watches_stream(objects(of(client), all.clone().labels(HANDLER_LABEL), handler_pods, any_change), |pod| {
                handler_of(&pod)
            })
            .watches_stream(children(of(client), handler(), handler_policies), |policy| handler_of(&policy))
            .watches_stream(children(of(client), handler(), handler_secrets), |secret| handler_of(&secret))
            .watches_stream(watches::topics_for_handlers(of(client), topics_for_handlers), move |topic| {
                let key = TopicKey { namespace: topic.namespace().unwrap_or_default(), name: topic.name_any() };
                references(by_topic.of(&key, |_| true))
            })
            .watches_stream(watches::namespaces(of(client), namespaces_for_handlers), move |namespace| {
                handlers_of_granted(&granted, &namespace.name_any())
            });
    (brokers, topics, handlers)
}

fn references<K: kube::Resource<DynamicType = ()>>(objects: Vec<Arc<K>>) -> Vec<ObjectRef<K>> {
    objects.iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

/// All of a type.
fn of<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = ()>,
{
    Api::all(client.clone())
}

fn received<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver)))
}

/// Runs a controller. Reconciles report for themselves; what is left are the queue's own errors.
async fn drain<K, S>(results: S)
where
    K: kube::Resource<DynamicType = ()>,
    S: Stream<Item = Result<(ObjectRef<K>, Action), controller::Error<Error, watcher::Error>>>,
{
    results
        .for_each(async |result| match result {
            Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
            Err(error) => tracing::warn!(%error, "watch"),
        })
        .await;
}
