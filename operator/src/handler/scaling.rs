//! How many pods a handler has.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use serde_json::json;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::EventHandler;

use super::observe::Observed;
use super::settings::Settings;
use crate::autoscaling::{Plan, Reason};
use crate::context::{Context, Owner};
use crate::kubernetes::names::{self, FIELD_MANAGER};
use crate::reconcile::error::Error;
use crate::reconcile::report;

/// How many there are to be, and why.
pub(super) fn plan(
    context: &Context,
    owner: &Owner,
    settings: &Settings,
    observed: &Observed,
    routing: Routing,
) -> Plan {
    if settings.is_suspended
        && let Some(plan) = Plan::suspended(settings.policy.as_ref(), routing)
    {
        return plan;
    }
    let Some(policy) = &settings.policy else {
        return Plan { replicas: settings.replicas, reason: Reason::Fixed };
    };
    if routing == Routing::Direct {
        return Plan { replicas: policy.min.max(1), reason: Reason::Direct };
    }
    let now = observed.deployment.as_ref().and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let current = now.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(policy.min);
    context.lag.decide(&(owner.namespace.clone(), owner.name.clone()), policy, current)
}

/// Tells of a number that is another one than before.
pub(super) async fn tell(context: &Context, handler: &EventHandler, plan: &Plan) {
    let before = handler.status.as_ref().and_then(|status| status.scaling.as_ref()).map(|scaling| scaling.desired);
    let Some(before) = before.and_then(|desired| u32::try_from(desired).ok()).filter(|before| *before != plan.replicas)
    else {
        return;
    };
    context.metrics.scaled(plan.replicas > before, plan.reason.text());
    let note = format!("from {before} to {} replicas: {}", plan.replicas, plan.reason.text());
    report::event(context, handler, EventType::Normal, "Scaled", &note).await;
}

/// Brings the Deployment to this number. One that waits for its turn to roll out is scaled all the same.
///
/// # Errors
/// The API server did not take it.
pub(super) async fn apply(
    context: &Context,
    owner: &Owner,
    deployment: Deployment,
    replicas: u32,
) -> Result<Deployment, Error> {
    let current = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    if current.and_then(|current| u32::try_from(current).ok()) == Some(replicas) {
        return Ok(deployment);
    }
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &owner.namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    Ok(api.patch(&names::handler(&owner.name), &params, &patch).await?)
}
