//! Restarts the pods that were made for another configuration or template: one after the other, and the next
//! one when every server has all that it should have.

use std::collections::{BTreeMap, HashMap};

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::{Error as KubeError, ResourceExt as _};
use tidegate_broker_admin::membership::{
    self, BrokerStep, Executor, MAX_SERVERS, Ordinal, PodState, Restart, Site, next_restart,
};
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::context::Context;
use crate::kubernetes::names;
use crate::kubernetes::pods::{self, is_ready};
use crate::reconcile::error::Error;
use crate::sessions::brokers::{BrokerKey, Place};

/// The broker's container in its pod.
const CONTAINER: &str = "nats";

/// A server whose pod has had a node for so long, and that was not started, is not about to join.
const START_LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// How far the pods of a broker are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rollout {
    /// Pods that are to be restarted.
    outdated: usize,
    /// All of them.
    pods: usize,
    /// What is done, or waited for; empty where nothing is to be restarted.
    step: String,
}

impl Rollout {
    /// Nothing is to be restarted now.
    pub(super) fn none() -> Self {
        Self { outdated: 0, pods: 0, step: String::new() }
    }

    /// Whether every pod is as it should be.
    pub(super) fn is_done(&self) -> bool {
        self.outdated == 0
    }

    /// Says in the conditions that pods are restarted. The broker is as ready as it is meanwhile.
    pub(super) fn explain(&self, found: &mut [Finding]) {
        let is_stalled = found.iter().any(|finding| finding.kind == kind::STALLED && finding.is_true());
        if self.is_done() || is_stalled {
            return;
        }
        let Some(reconciling) = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING) else { return };
        let Self { outdated, pods, step } = self;
        let message = format!(
            "restarting the pods one by one, for another configuration or version: {outdated} of {pods} to go; {step}"
        );
        *reconciling = Finding::new(kind::RECONCILING, Status::True, "RestartingPods", message);
    }
}

/// Whether this pod was made for something else than the StatefulSet says now.
pub(crate) fn is_outdated(pod: &Pod, set: &StatefulSet) -> bool {
    let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref());
    let wanted = template.and_then(|annotations| annotations.get(names::ROLLS_WITH_ANNOTATION));
    // One without it is none of ours.
    pod.annotations().get(names::ROLLS_WITH_ANNOTATION).is_some_and(|made| Some(made) != wanted)
}

/// The servers, as they are asked.
pub(super) fn site(place: &Place) -> Site {
    let name = |ordinal| format!("{}-{ordinal}", names::broker(&place.broker.name));
    Site {
        names: (0..MAX_SERVERS).map(name).collect(),
        pods: usize::try_from(place.pods).unwrap_or_default(),
        ..Site::default()
    }
}

/// Whether a pod was made for something else than the StatefulSet says now.
pub(super) fn has_outdated(pods: &[Pod], set: &StatefulSet) -> bool {
    pods.iter().any(|pod| is_outdated(pod, set))
}

/// Restarts a pod whose server does not run, and no other: the servers are changing.
///
/// # Errors
/// The API server did not take it.
pub(super) async fn proceed_with_idle(
    context: &Context,
    place: &Place,
    pods: &[Pod],
    set: &StatefulSet,
) -> Result<(), Error> {
    let site = site(place);
    let states = states(pods, set, &site);
    if let Restart::Pod(ordinal) = next_restart(&site, &states, None)
        && states.get(&ordinal).is_some_and(|pod| !pod.is_running)
    {
        delete_named(context, place, pods, &site.names[ordinal]).await?;
    }
    Ok(())
}

/// No pod is restarted now; why.
pub(super) fn held(place: &Place, pods: &[Pod], set: &StatefulSet, why: String) -> Rollout {
    let site = site(place);
    let outdated = states(pods, set, &site).values().filter(|state| state.is_outdated).count();
    Rollout { outdated, pods: site.pods, step: why }
}

/// Does the next step, if one is due.
///
/// # Errors
/// The API server, or a server of the broker, did not take it.
pub(super) async fn proceed(
    context: &Context,
    place: &Place,
    pods: &[Pod],
    set: &StatefulSet,
) -> Result<Rollout, Error> {
    let site = site(place);
    let states = states(pods, set, &site);
    let outdated = states.values().filter(|state| state.is_outdated).count();
    let mut next = next_restart(&site, &states, None);
    if next == Restart::Observe {
        let servers = match context.brokers.servers(place).await {
            Ok(servers) => servers,
            Err(error) => {
                return Ok(Rollout { outdated, pods: site.pods, step: format!("waiting for its servers: {error}") });
            }
        };
        match membership::observe(servers.system_client(), &site).await {
            Ok(observed) => next = next_restart(&site, &states, Some(&observed)),
            Err(error) => {
                return Ok(Rollout { outdated, pods: site.pods, step: format!("waiting for its servers: {error}") });
            }
        }
        if let Restart::Lead(ordinal) = next {
            let step = BrokerStep::MetaStepDown(site.names[ordinal].clone());
            let executor = Executor::new(servers.system_client().clone());
            executor.run(&step, &HashMap::new()).await?;
        }
    }
    if let Restart::Pod(ordinal) = next
        && delete_named(context, place, pods, &site.names[ordinal]).await? == Deleted::NotYet
    {
        let step = "waiting for a pod to end that was told to".to_owned();
        return Ok(Rollout { outdated, pods: site.pods, step });
    }
    Ok(Rollout { outdated, pods: site.pods, step: next.explain(&site) })
}

/// Whether a pod was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// It was.
    Now,
    /// Somebody else was faster: it is gone, or another one has taken its place.
    Before,
    /// Another one was told to that is not seen to end yet.
    NotYet,
}

impl Deleted {
    fn new<T>(answer: Result<T, KubeError>) -> Result<Self, Error> {
        match answer {
            Ok(_) => Ok(Self::Now),
            Err(KubeError::Api(status)) if matches!(status.code, 404 | 409) => Ok(Self::Before),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells this pod of a broker to end, and none that has taken its place. `pods`: those by which that was decided.
///
/// # Errors
/// The API server did not take it.
pub(crate) async fn delete(context: &Context, broker: &BrokerKey, pod: &Pod, pods: &[Pod]) -> Result<Deleted, Error> {
    if !context.broker_restarts.take(broker, pod, pods) {
        return Ok(Deleted::NotYet);
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &broker.namespace);
    let this_one = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
    let deleted = Deleted::new(api.delete(&pod.name_any(), &params).await)?;
    tracing::info!(pod = pod.name_any(), namespace = broker.namespace, ?deleted, "restarting a broker pod");
    Ok(deleted)
}

async fn delete_named(context: &Context, place: &Place, pods: &[Pod], name: &str) -> Result<Deleted, Error> {
    match pods.iter().find(|pod| pod.name_any() == name) {
        Some(pod) => delete(context, &place.broker, pod, pods).await,
        None => Ok(Deleted::Before),
    }
}

/// The pods by the numbers of their servers.
fn states(pods: &[Pod], set: &StatefulSet, site: &Site) -> BTreeMap<Ordinal, PodState> {
    let state = |pod: &Pod| {
        let ordinal = site.names.iter().position(|name| *name == pod.name_any())?;
        let state = PodState {
            is_outdated: is_outdated(pod, set),
            is_ready: is_ready(pod),
            is_running: is_running(pod),
            is_ending: pod.metadata.deletion_timestamp.is_some(),
        };
        Some((ordinal, state))
    };
    pods.iter().filter_map(state).collect()
}

/// Whether its server runs, or may start and join the cluster at any moment: a node has the pod. One that cannot be started
/// is none: else a broker could not go back from servers that never came.
pub(super) fn may_run(pod: &Pod, now: jiff::Timestamp) -> bool {
    if is_running(pod) {
        return true;
    }
    let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()));
    let is_late = pods::scheduled_at(pod).is_some_and(|since| now.duration_since(since) > START_LIMIT);
    has_node && !is_late && pods::trouble([pod]).is_none_or(|trouble| !trouble.is_hopeless)
}

/// Whether its server has been started and has not ended.
pub(super) fn is_running(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers
        .filter(|container| container.name == CONTAINER)
        .any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::status::summary;

    fn set(hash: &str) -> StatefulSet {
        let metadata = json!({"annotations": {names::ROLLS_WITH_ANNOTATION: hash}});
        let spec = json!({"serviceName": "s", "selector": {}, "template": {"metadata": metadata}});
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn pod(name: &str, hash: &str, state: &Value) -> Pod {
        let annotations = json!({names::ROLLS_WITH_ANNOTATION: hash, "tidegate.io/topics": "x"});
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": annotations},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [
                    {"name": "ingress", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                    {"name": "nats", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_judged_by_what_it_was_made_for() {
        let running = json!({"running": {}});
        let pods = [
            pod("b-broker-0", "new", &running),
            pod("b-broker-1", "old", &json!({"waiting": {"reason": "ImagePullBackOff"}})),
            pod("another-0", "old", &running),
        ];
        let site = Site { names: vec!["b-broker-0".into(), "b-broker-1".into()], pods: 2, ..Site::default() };
        let found = states(&pods, &set("new"), &site);
        let good = PodState { is_outdated: false, is_ready: true, is_running: true, is_ending: false };
        assert_eq!(found, BTreeMap::from([(0, good), (1, PodState { is_outdated: true, is_running: false, ..good })]));
    }

    #[test]
    fn a_pod_that_somebody_else_has_deleted_is_no_error() {
        let answer = |code| {
            Deleted::new(Err::<(), _>(KubeError::Api(kube::core::Status::failure("", "").with_code(code).boxed())))
        };
        assert_eq!(Deleted::new(Ok(())).unwrap(), Deleted::Now);
        for code in [404, 409] {
            assert_eq!(answer(code).unwrap(), Deleted::Before, "{code}");
        }
        assert!(answer(403).is_err() && answer(500).is_err());
    }

    #[test]
    fn a_pod_with_a_node_may_run_unless_it_cannot_be_started() {
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        let may = |node: Option<&str>, state: &Value, minutes: i64| {
            let mut pod = pod("b-broker-1", "new", state);
            let now = jiff::Timestamp::now();
            pod.spec = serde_json::from_value(json!({"containers": [], "nodeName": node})).unwrap();
            let scheduled = json!([{
                "type": "PodScheduled", "status": "True", "lastTransitionTime": now - SignedDuration::from_mins(minutes),
            }]);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(scheduled).unwrap();
            may_run(&pod, now)
        };
        let creating = waits("ContainerCreating");
        assert!(may(Some("n"), &creating, 1) && may(None, &json!({"running": {}}), 1));
        assert!(may(Some("n"), &json!({"running": {}}), 60));
        assert!(!may(None, &creating, 1), "it has no node yet");
        assert!(!may(Some("n"), &waits("ImagePullBackOff"), 1) && !may(Some("n"), &creating, 11));
    }

    #[test]
    fn what_is_waited_for_is_said_while_the_broker_is_ready() {
        let ready = Finding::new(kind::BROKER_AVAILABLE, Status::True, "AllReady", "3 of 3");
        let said = |rollout: &Rollout| {
            let mut found = summary(vec![ready.clone()], "ready");
            rollout.explain(&mut found);
            found.into_iter().find(|finding| finding.kind == kind::RECONCILING).unwrap()
        };
        let rollout = Rollout { outdated: 2, pods: 3, step: "waiting for b-2".into() };
        let found = said(&rollout);
        assert!(
            found.is_true()
                && found.reason == "RestartingPods"
                && found.message.ends_with("2 of 3 to go; waiting for b-2")
        );
        assert!(!said(&Rollout { outdated: 0, ..rollout }).is_true());
    }
}
