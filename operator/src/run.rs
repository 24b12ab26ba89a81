//! The controllers and what runs beside them.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tidegate_crds::{EventHandler, EventTopic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::Error;
use crate::names::{HANDLER_LABEL, MANAGED_BY, TOPIC_LABEL};
use crate::{handler, poll, topic};

/// Reconciles at the same time, in each controller.
const CONCURRENCY: u16 = 16;
/// Resources that wait to be told of their lag.
const TRIGGERS: usize = 1024;

/// Runs both controllers until `stop`; what was begun is finished.
pub async fn run(context: Context, stop: CancellationToken) {
    let client = context.client.clone();
    let shared = Arc::new(context.clone());
    let (tell_handlers, handler_triggers) = mpsc::channel(TRIGGERS);
    let (tell_topics, topic_triggers) = mpsc::channel(TRIGGERS);
    let handlers = handler_controller(&client, handler_triggers, stop.clone());
    let store = handlers.store();
    let topics = topic_controller(&client, topic_triggers, stop.clone());
    let polling = poll::run(context, store, poll::Triggers { handlers: tell_handlers, topics: tell_topics });
    let controllers = async {
        tokio::join!(
            drain(topics.run(topic::reconcile, topic::retry, shared.clone())),
            drain(handlers.run(handler::reconcile, handler::retry, shared.clone())),
        )
    };
    tokio::select! {
        _ = controllers => {}
        () = polling => {}
    }
}

fn topic_controller(
    client: &Client,
    triggers: mpsc::Receiver<ObjectRef<EventTopic>>,
    stop: CancellationToken,
) -> Controller<EventTopic> {
    Controller::new(Api::all(client.clone()), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .owns(Api::<StatefulSet>::all(client.clone()), ours())
        .owns(Api::<Service>::all(client.clone()), ours())
        .owns(Api::<ConfigMap>::all(client.clone()), ours())
        .owns(Api::<PodDisruptionBudget>::all(client.clone()), ours())
        .owns(Api::<NetworkPolicy>::all(client.clone()), ours())
        .watches(Api::<Pod>::all(client.clone()), ours().labels("app.kubernetes.io/component=broker"), |pod: Pod| {
            labelled(&pod, TOPIC_LABEL)
        })
        .reconcile_on(received(triggers))
        .graceful_shutdown_on(async move { stop.cancelled().await })
}

fn handler_controller(
    client: &Client,
    triggers: mpsc::Receiver<ObjectRef<EventHandler>>,
    stop: CancellationToken,
) -> Controller<EventHandler> {
    let controller = Controller::new(Api::all(client.clone()), watcher::Config::default());
    let store = controller.store();
    controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .owns(Api::<Deployment>::all(client.clone()), ours())
        .watches(Api::<EventTopic>::all(client.clone()), watcher::Config::default(), move |topic: EventTopic| {
            handlers_of(&store, &topic)
        })
        .watches(Api::<Pod>::all(client.clone()), ours().labels(HANDLER_LABEL), |pod: Pod| {
            labelled(&pod, HANDLER_LABEL)
        })
        .reconcile_on(received(triggers))
        .graceful_shutdown_on(async move { stop.cancelled().await })
}

/// Everything the operator made.
fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1))
}

/// The resource that a pod's label names.
fn labelled<K>(pod: &Pod, label: &str) -> Option<ObjectRef<K>>
where
    K: kube::Resource<DynamicType = ()>,
{
    Some(ObjectRef::new(pod.labels().get(label)?).within(&pod.namespace()?))
}

fn handlers_of(store: &Store<EventHandler>, topic: &EventTopic) -> Vec<ObjectRef<EventHandler>> {
    let namespace = topic.namespace();
    let name = topic.name_any();
    store
        .state()
        .iter()
        .filter(|handler| handler.namespace() == namespace && names(handler, &name))
        .map(|handler| ObjectRef::from_obj(handler.as_ref()))
        .collect()
}

/// Whether the handler takes events from this topic or publishes to it.
fn names(handler: &EventHandler, topic: &str) -> bool {
    let spec = &handler.spec;
    let destinations = [&spec.reply, &spec.dead_letter].into_iter().flatten().map(|to| to.topic.as_str());
    destinations.chain([spec.topic.as_str()]).any(|name| name == topic)
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
