//! One release operates a cluster: its topics and handlers are in all namespaces, and two operators with different
//! settings would undo each other's work without end.
//!
//! Of two releases the second waits until the first has gone. It says so where whoever installed it looks: it is not
//! ready, so that the rollout of its Deployment does not finish, and there are a log line and an Event of its pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::timeout;

use crate::args::Args;
use crate::health::Health;
use crate::kubernetes::leader::Leadership;
use crate::kubernetes::names::FIELD_MANAGER;

/// A release that waits says so this often.
const REPORT_PERIOD: Duration = Duration::from_secs(60);
/// How long it may take to find out.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Waits until no other release operates this cluster.
///
/// # Errors
/// The cluster's lease cannot be read.
pub async fn take(client: Client, args: &Args, health: &Health) -> Result<Leadership, kube::Error> {
    let mut claim = Leadership::join_cluster(client.clone(), args).await?;
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(args.pod_name.clone()) };
    let recorder = Recorder::new(client, reporter);
    let mut pause = LOOK_PERIOD;
    while timeout(pause, claim.won()).await.is_err() {
        pause = LOOK_PERIOD;
        let Some(holder) = claim.holder() else { continue };
        health.set_ready(false);
        tell(&recorder, args, &holder).await;
        pause = REPORT_PERIOD;
    }
    health.set_ready(true);
    Ok(claim)
}

async fn tell(recorder: &Recorder, args: &Args, holder: &str) {
    let namespace = holder.split('/').next().unwrap_or(holder);
    let note = format!(
        "another release of Tidegate operates this cluster: {holder} holds Lease tidegate in namespace {}. This one does nothing until that is uninstalled from namespace {namespace}; uninstall one of the two",
        args.cluster_lease_namespace
    );
    tracing::error!(holder, "{note}");
    let pod = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(args.pod_name.clone()),
        namespace: Some(args.pod_namespace.clone()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "AnotherRelease".into(),
        note: Some(note),
        action: "Wait".into(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &pod).await {
        tracing::warn!(%error, "event not published");
    }
}
