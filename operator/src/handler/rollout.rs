//! Whether the handler's pods are as the specification wants them (pure).
//!
//! `PodsReady` is about the *current* template: while pods of an older one are there, or the new ones cannot start, it
//! is False, whatever still serves. It is not a count: between two numbers of pods of the current template, with one
//! that is ready, events are delivered, and the condition stays True.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::autoscaling::{Plan, Reason};
use crate::kubernetes::names::TEMPLATE_ANNOTATION;
use crate::kubernetes::pods::{self, Trouble};

/// How long a first pod may take to start while the condition stays True: a Deployment's own progress deadline.
const START_DEADLINE: jiff::SignedDuration = jiff::SignedDuration::from_secs(600);
/// Why a handler has no pods whose place is moved.
pub const MOVING: &str = "there are pods again when the handler's place in its topic has been moved";
/// Reasons of a handler that had no pods and nothing wrong with it.
const FROM_ZERO: [&str; 2] = ["ScaledToZero", "Waking"];

/// What the condition is made from.
pub struct Rollout<'a> {
    /// How many pods there should be, and why.
    pub plan: Plan,
    /// The Deployment, as it was applied.
    pub deployment: &'a Deployment,
    /// The handler's pods.
    pub pods: &'a [Pod],
    /// What the sidecars say of programs that take no events.
    pub outage: Option<&'a str>,
    /// The condition as it was.
    pub before: Option<&'a Condition>,
    /// The time.
    pub now: jiff::Timestamp,
}

/// The condition `PodsReady`.
pub fn pods_ready(rollout: &Rollout<'_>) -> Finding {
    let Rollout { plan, deployment, .. } = rollout;
    if plan.replicas == 0 {
        let why = match plan.reason {
            Reason::Fixed => "spec.replicas is 0: events wait until it is raised",
            Reason::Suspended => "spec.suspend is true: there are pods again when it is false and there are events",
            Reason::Moving => MOVING,
            _ => "no events, no pods: the first event starts one",
        };
        return Finding::new(kind::PODS_READY, Status::True, "ScaledToZero", why);
    }
    let (current, older) = rollout.by_template();
    let ready = current.iter().filter(|pod| pods::is_ready(pod)).count();
    // A pod whose program has not taken a connection yet is not ready either.
    let outage = rollout.outage.filter(|_| ready == 0);
    let trouble = trouble(&current, deployment, outage);
    let wanted = usize::try_from(plan.replicas).unwrap_or(usize::MAX);
    let mut message = format!("{} of {wanted} pods are ready", ready.min(wanted));
    if older > 0 {
        message = format!("{message}, {older} of an earlier template remain");
    }
    if let Some(why) = trouble.as_ref().map(|trouble| trouble.message.as_str()).or(outage) {
        message = format!("{message}: {why}");
    }
    let found = |status, reason: &str| Finding::new(kind::PODS_READY, status, reason, message.clone());
    let is_current = older == 0;
    match trouble {
        None if is_current && ready >= wanted => found(Status::True, "PodsReady"),
        None if is_current && ready > 0 => found(Status::True, "Scaling"),
        Some(_) if is_current && ready > 0 => found(Status::True, "SomePodsFailing"),
        None if is_current && rollout.is_waking(&current) => found(Status::True, "Waking"),
        None if is_current && outage.is_some() => found(Status::False, "Outage"),
        None if is_current => found(Status::False, "PodsStarting"),
        None => found(Status::False, "RollingOut"),
        Some(Trouble { is_hopeless: true, .. }) => found(Status::False, "PodsFailing").stalled(),
        Some(_) => found(Status::False, "PodsFailing"),
    }
}

impl<'a> Rollout<'a> {
    /// The pods that live and are of the current template, and how many are of another.
    fn by_template(&self) -> (Vec<&'a Pod>, usize) {
        let template = self.deployment.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
        let wanted = template.and_then(|metadata| metadata.annotations.as_ref()?.get(TEMPLATE_ANNOTATION));
        let is_current =
            |pod: &&Pod| pod.metadata.annotations.as_ref().and_then(|found| found.get(TEMPLATE_ANNOTATION)) == wanted;
        let (current, older): (Vec<_>, Vec<_>) =
            self.pods.iter().filter(|pod| pods::is_alive(pod)).partition(is_current);
        (current, older.len())
    }

    /// Whether the first pod is on its way, of a handler that had none because there was nothing to do.
    fn is_waking(&self, current: &[&Pod]) -> bool {
        let is_young = |pod: &&Pod| {
            pod.metadata.creation_timestamp.as_ref().is_none_or(|made| self.now.duration_since(made.0) < START_DEADLINE)
        };
        self.before.is_some_and(|before| before.status == "True" && FROM_ZERO.contains(&before.reason.as_str()))
            && current.iter().all(is_young)
    }
}

/// Of the pods, or of the Deployment where there are none to ask: quota, Pod Security, a rollout that does not move.
fn trouble(current: &[&Pod], deployment: &Deployment, outage: Option<&str>) -> Option<Trouble> {
    let refused = condition(deployment, "ReplicaFailure", "True")
        .map(|failure| pods::refused(failure.message.as_deref().unwrap_or_default()));
    let late = condition(deployment, "Progressing", "False")
        .filter(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    let trouble = pods::trouble(current.iter().copied()).or(refused);
    match (trouble, late) {
        (Some(trouble), Some(_)) => Some(Trouble { is_hopeless: true, ..trouble }),
        (None, Some(late)) => {
            let late = late.message.as_deref().unwrap_or_default();
            let message = outage.map_or_else(|| late.to_owned(), |outage| format!("{outage}; {late}"));
            Some(Trouble { message, is_hopeless: true })
        }
        (trouble, None) => trouble,
    }
}

/// The Deployment's condition that says this, if its controller has seen the specification as it is.
fn condition<'a>(deployment: &'a Deployment, kind: &str, says: &str) -> Option<&'a DeploymentCondition> {
    let status = deployment.status.as_ref()?;
    let is_current = status.observed_generation == deployment.metadata.generation;
    let conditions = status.conditions.as_ref().filter(|_| is_current)?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == says)
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
