//! What `helm test` finds, on an API server.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use tidegate_crds::EventHandler;
use tidegate_operator::check::{self, Args, CheckError};
use tidegate_operator::kubernetes::leader::Leadership;

use crate::admission::Webhook;
use crate::support::Space;
use crate::support::operator::args;

/// As the chart starts it in a release's namespace; what is not there soon is not there.
fn check_args(space: &Space, admission: bool, timeout_seconds: u32) -> Args {
    Args { namespace: space.name.clone(), admission, timeout_seconds }
}

async fn run(space: &Space, args: &Args) -> (Result<(), CheckError>, String) {
    let mut report = Vec::new();
    let outcome = check::run(space.client.clone(), args, &mut report).await;
    (outcome, String::from_utf8(report).unwrap())
}

async fn lead(space: &Space) -> Leadership {
    let mut leadership = Leadership::join(space.client.clone(), &args("operator-0", &space.name)).await.unwrap();
    leadership.won().await;
    leadership
}

#[tokio::test]
async fn an_operator_at_work_that_is_asked_passes() {
    let webhook = Webhook::start("checked").await;
    let space = &webhook.space;
    let _leadership = lead(space).await;
    let (outcome, report) = run(space, &check_args(space, true, 60)).await;
    outcome.unwrap();
    assert_eq!(report.lines().count(), 3, "{report}");
    assert!(report.contains("ok: operator-0 leads"), "{report}");
    let handlers: Api<EventHandler> = space.api();
    assert_eq!(handlers.list(&Default::default()).await.unwrap().items.len(), 0, "it was to be a dry run");
}

#[tokio::test]
async fn an_operator_that_is_not_asked_fails() {
    let space = Space::new("unasked").await;
    let _leadership = lead(&space).await;
    let (outcome, _) = run(&space, &check_args(&space, true, 15)).await;
    assert!(matches!(outcome, Err(CheckError::NotAsked(namespace)) if namespace == space.name));
    run(&space, &check_args(&space, false, 15)).await.0.unwrap();
}

/// A Lease stays when its holder was killed.
#[tokio::test]
async fn a_lease_that_nobody_renews_is_no_operator() {
    let space = Space::new("unled").await;
    let leadership = lead(&space).await;
    let leases: Api<Lease> = space.api();
    let mut held = leases.get("tidegate-operator").await.unwrap();
    leadership.leave().await;
    leases.delete("tidegate-operator", &DeleteParams::default()).await.unwrap();
    held.metadata = kube::core::ObjectMeta { name: held.metadata.name, ..Default::default() };
    leases.create(&Default::default(), &held).await.unwrap();
    let (outcome, _) = run(&space, &check_args(&space, false, 8)).await;
    assert!(matches!(outcome, Err(CheckError::NoLeader(_))), "{outcome:?}");
}
