//! Replaces a broker's certificate authorities while events flow: one step at a time, each from what is seen then
//! ([`tidegate_broker_admin::rollover`]).
//!
//! A step is one write of the broker's keys, over the version that it was decided by. Everything that is made from them
//! follows by the reconciles of the broker, its topics and its handlers, and says which generation it is of: Secrets and
//! ConfigMaps by an annotation, servers by the end of their certificates, ingresses and sidecars when they are asked or
//! report. No step is taken while servers change or pods are restarted; those may begin between two steps, because a server
//! that starts reads what is newest.

mod progress;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt as _};
use tidegate_broker_admin::Authority;
use tidegate_broker_admin::rollover::{self, Cause, Next, Observed, Stage};
use tidegate_crds::broker::RolloverStage;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use time::OffsetDateTime;

pub(super) use self::progress::Progress;
use super::desired::{Input, authority_secret};
use super::reload::Reload;
use super::restart::{self, Rollout};
use super::{members, topics};
use crate::context::Context;
use crate::handler::template::SIDECAR;
use crate::identity::user_keys::request_of;
use crate::kubernetes::apply::apply;
use crate::kubernetes::names::{self, GENERATION_ANNOTATION, HANDLER_LABEL};
use crate::kubernetes::watches::Stores;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::sessions::brokers::{Place, TopicKey};
use crate::sessions::by_handler::HandlerKey;
use crate::topic::rules;

/// What has certificates of an earlier stage, and is to be reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outdated {
    /// A topic.
    Topic(TopicKey),
    /// A handler.
    Handler(HandlerKey),
}

/// Does the next step, if one is due. `held`: why none may be taken now.
///
/// # Errors
/// The API server did not take it, or it was decided by keys that are not the newest.
pub(super) async fn proceed(
    context: &Context,
    input: &Input<'_>,
    place: &Place,
    reload: &Reload,
    held: Option<String>,
) -> Result<Progress, Error> {
    let (authority, now) = (input.authority, OffsetDateTime::now_utc());
    let request = request_of(input.broker);
    let observed = observe(context, input, place, reload, held).await;
    let next = rollover::next(authority, request.as_deref(), &observed, input.settings.publisher_grace, now);
    let stepped = match &next {
        Next::Rest | Next::Wait(_) => None,
        Next::Begin(cause) => Some(authority.begin(&input.owner.name, cause, now)?),
        Next::Told => Some(authority.told(now)),
        Next::Sign => Some(authority.sign()),
        Next::Drop => Some(authority.drop_former()),
        Next::Settle => Some(authority.settle()),
    };
    if let Some(stepped) = &stepped {
        let version = input.observed.authority_version.as_deref().unwrap_or_default();
        let secret = authority_secret(&Input { authority: stepped, ..*input }).replacing(version);
        apply(context, input.owner, &secret).await?;
        // Topics and handlers must not take the one before for the present one until the watch has told of this.
        context.authorities.forget(&place.broker);
        tell(context, input.broker, &next, stepped).await;
    }
    let at = stepped.as_ref().unwrap_or(authority);
    let wait = if let Next::Wait(wait) = next { Some(wait) } else { None };
    Ok(Progress {
        stage: stage(at),
        generation: at.rollover.generation,
        request: at.rollover.request.clone(),
        wait,
        has_stepped: stepped.is_some(),
    })
}

/// Why no step is taken now.
pub(super) fn held(
    is_formed: bool,
    waits_for_turn: bool,
    progress: &members::Progress,
    rollout: &Rollout,
) -> Option<String> {
    let why = if !is_formed {
        "the servers have formed their cluster"
    } else if !rollout.is_done() || waits_for_turn || *progress == members::Progress::AfterRestarts {
        "the pods have been restarted"
    } else if !progress.is_done() {
        "the servers have been changed"
    } else {
        return None;
    };
    Some(why.to_owned())
}

fn stage(authority: &Authority) -> RolloverStage {
    match authority.rollover.stage {
        Stage::Settled => RolloverStage::Settled,
        Stage::Trusting { .. } => RolloverStage::Trusting,
        Stage::Signing { .. } => RolloverStage::Signing,
        Stage::Dropping => RolloverStage::Dropping,
    }
}

/// Its beginning and its end are Events.
async fn tell(context: &Context, broker: &EventBroker, next: &Next, stepped: &Authority) {
    let (name, namespace) = (broker.name_any(), broker.namespace().unwrap_or_default());
    let generation = stepped.rollover.generation;
    tracing::info!(broker = name, namespace, generation, stage = ?stage(stepped), "rollover of the authorities: next step");
    let (reason, note) = match next {
        Next::Begin(cause) => {
            let why = match cause {
                Cause::Request(request) => format!("annotation tidegate.io/rotate asks for it ({request})"),
                Cause::End => "one ends within a year".to_owned(),
                Cause::NotSeparate => "servers and clients have one between them, as in an earlier version".to_owned(),
            };
            ("RolloverBegun", format!("other certificate authorities take the place of the present ones: {why}"))
        }
        Next::Settle => ("RolloverDone", "the former certificate authorities are no longer trusted".to_owned()),
        _ => return,
    };
    report::event(context, broker, EventType::Normal, reason, &note).await;
}

async fn observe(
    context: &Context,
    input: &Input<'_>,
    place: &Place,
    reload: &Reload,
    held: Option<String>,
) -> Observed {
    let authority = input.authority;
    if authority.rollover.stage == Stage::Settled {
        return Observed { held, ..Observed::default() };
    }
    let generation = authority.rollover.generation;
    let names: Vec<String> =
        restart::site(place).names.into_iter().take(usize::try_from(place.pods).unwrap_or(0)).collect();
    let mut observed = Observed { held, ..Observed::default() };
    // What a topic had whose grant was withdrawn is made anew when it is granted again.
    for topic in topics::granted(context, &place.broker) {
        observe_topic(context, &topic, authority, &mut observed);
    }
    if observed.held.is_some() || !observed.unwritten.is_empty() {
        return observed;
    }
    observed.servers = names.iter().filter(|name| !reload.is_current(name)).cloned().collect();
    let ingresses = match context.brokers.servers(place).await {
        Ok(servers) => servers.ingresses.generations().await.unwrap_or_default(),
        Err(_) => Default::default(),
    };
    let is_current =
        |name: &String| ingresses.get(name).is_some_and(|known| known.is_some_and(|known| known >= generation));
    observed.ingresses = names.iter().filter(|name| !is_current(name)).cloned().collect();
    if !observed.servers.is_empty() || !observed.ingresses.is_empty() {
        // The kubelet brings the files when it looks at the pods.
        context.unserved.add(place.broker.clone());
    }
    observed
}

/// What is made of a topic, and of its handlers. What is outdated is reconciled.
fn observe_topic(context: &Context, topic: &EventTopic, authority: &Authority, observed: &mut Observed) {
    let (generation, stores) = (authority.rollover.generation, &context.stores);
    let (namespace, name) = (topic.namespace().unwrap_or_default(), topic.name_any());
    let key = TopicKey { namespace: namespace.clone(), name: name.clone() };
    let ca = stores.topic_config_map(&namespace, &names::ca(&name));
    let publishers = topics::Topic::of(topic).map(|topic| rules::nats_names(&topic.publishers)).unwrap_or_default();
    observed.has_publishers |= !publishers.is_empty();
    let secrets: Vec<_> =
        publishers.iter().filter_map(|one| stores.secret(&namespace, &names::publisher(&name, one))).collect();
    let is_written =
        ca.is_none_or(|ca| is_of(&ca, generation)) && secrets.iter().all(|secret| is_of(secret, generation));
    if !is_written {
        observed.unwritten.push(format!("EventTopic {namespace}/{name}"));
        context.outdated.add(Outdated::Topic(key.clone()));
    }
    for handler in stores.handlers_of(&key) {
        if handler.metadata.deletion_timestamp.is_none() && stores.admits_handler(topic, &handler) {
            observe_handler(context, &handler, authority, observed);
        }
    }
}

fn observe_handler(context: &Context, handler: &EventHandler, authority: &Authority, observed: &mut Observed) {
    let generation = authority.rollover.generation;
    let key: HandlerKey = (handler.namespace().unwrap_or_default(), handler.name_any());
    let (namespace, name) = &key;
    let identity = context.stores.secret(namespace, &names::handler_identity(name));
    if identity.is_some_and(|identity| !is_of(&identity, generation)) {
        observed.unwritten.push(format!("EventHandler {namespace}/{name}"));
        context.outdated.add(Outdated::Handler(key));
        return;
    }
    let pods = Stores::pods_of(&context.stores.handler_pods, namespace, HANDLER_LABEL, name);
    let reported = context.reports.generations(&key);
    let told = authority.rollover.told;
    let behind = pods.iter().filter(|pod| {
        let is_current = reported.get(&pod.name_any()).is_some_and(|known| *known >= generation);
        !is_current && has_sidecar(pod) && !is_younger(pod, told)
    });
    observed.sidecars.extend(behind.map(|pod| format!("{namespace}/{}", pod.name_any())));
}

/// Whether something was made from the authorities as they are.
fn is_of(object: &impl Resource, generation: u64) -> bool {
    let carried = object.meta().annotations.as_ref().and_then(|annotations| annotations.get(GENERATION_ANNOTATION));
    carried.and_then(|carried| carried.parse().ok()).unwrap_or(0) >= generation
}

/// Whether its sidecar runs, and is not about to end. One that is still to start finds the newest files.
fn has_sidecar(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let mut sidecar = containers.filter(|container| container.name == SIDECAR);
    pod.metadata.deletion_timestamp.is_none()
        && sidecar.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Whether a pod was made when the files were there already.
fn is_younger(pod: &Pod, told: Option<OffsetDateTime>) -> bool {
    let made = pod.metadata.creation_timestamp.as_ref().map(|made| made.0.as_second());
    told.zip(made).is_some_and(|(told, made)| made > told.unix_timestamp())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_pod_counts_while_its_sidecar_may_have_old_files() {
        let pod = |sidecar: &str, made: &str| -> Pod {
            let status = json!({"name": SIDECAR, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {sidecar: {}}});
            let value = json!({"metadata": {"creationTimestamp": made}, "status": {"initContainerStatuses": [status]}});
            serde_json::from_value(value).unwrap()
        };
        let running = pod("running", "2027-01-15T08:00:00Z");
        assert!(has_sidecar(&running) && !has_sidecar(&pod("waiting", "2027-01-15T08:00:00Z")));
        for (told, is) in [(None, false), (Some(at(0)), false), (Some(at(-1)), true)] {
            assert_eq!(is_younger(&running, told), is, "{told:?}");
        }
    }

    #[test]
    fn what_says_nothing_is_of_the_first_generation() {
        let map = |annotations: serde_json::Value| -> k8s_openapi::api::core::v1::ConfigMap {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap()
        };
        for (annotations, generation, is) in [
            (json!(null), 0, true),
            (json!(null), 1, false),
            (json!({GENERATION_ANNOTATION: "2"}), 2, true),
            (json!({GENERATION_ANNOTATION: "2"}), 3, false),
            (json!({GENERATION_ANNOTATION: "many"}), 1, false),
        ] {
            assert_eq!(is_of(&map(annotations.clone()), generation), is, "{annotations} {generation}");
        }
    }
}
