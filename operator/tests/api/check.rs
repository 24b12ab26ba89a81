//! What `helm test` and `tidegate check` find, on an API server.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tidegate_cli::doctor::finding::State;
use tidegate_cli::stored::Location;
use tidegate_crds::EventHandler;
use tidegate_operator::check::{self, Args, CheckError};
use tidegate_operator::kubernetes::leader::Leadership;

use crate::admission::Webhook;
use crate::support::operator::args;
use crate::support::{Space, eventually, server_config};

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

/// As the chart's, with as many pods that are ready.
async fn deployed(space: &Space, ready: i32) {
    let labels = json!({
        "app.kubernetes.io/name": "tidegate", "app.kubernetes.io/component": "operator",
        "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
    });
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template});
    space.create::<Deployment>(json!({"metadata": {"name": "operator", "labels": labels}, "spec": spec})).await;
    let status = json!({"status": {"replicas": 1, "readyReplicas": ready}});
    let deployments: Api<Deployment> = space.api();
    deployments.patch_status("operator", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// What `tidegate check` says of these links.
async fn said<const N: usize>(client: &Client, space: &Space, links: [&'static str; N]) -> [(State, String); N] {
    let location = Location { namespace: space.name.clone(), context: None };
    let report = tidegate_cli::check::look(client, &location, Some(&space.name)).await.unwrap();
    links.map(|link| {
        let found = report.findings.iter().find(|finding| finding.link == link);
        let found = found.unwrap_or_else(|| panic!("{link}: {:#?}", report.findings));
        (found.state, found.message.clone())
    })
}

#[tokio::test]
async fn a_user_sees_an_installation_that_works() {
    let webhook = Webhook::start("seen").await;
    let space = &webhook.space;
    deployed(space, 1).await;
    let _leadership = lead(space).await;
    let links = ["definitions", "operator", "version", "leader", "webhook", "your rights"];
    let found = eventually("the webhook is asked", async || {
        let found = said(&space.client, space, links).await;
        (found[4].0 == State::Ok).then_some(found)
    })
    .await;
    assert!(found.iter().all(|(state, _)| *state == State::Ok), "{found:?}");
    assert!(found[3].1.contains("operator-0 leads") && found[4].1.contains("asks the operator"), "{found:?}");
    let handlers: Api<EventHandler> = space.api();
    assert_eq!(handlers.list(&Default::default()).await.unwrap().items.len(), 0, "it was to be a dry run");
}

#[tokio::test]
async fn a_user_sees_what_is_wrong_and_what_may_not_be_seen() {
    let space = Space::new("unseen").await;
    let links = ["definitions", "operator"];
    let [definitions, operator] = said(&space.client, &space, links).await;
    assert_eq!(definitions.0, State::Ok);
    assert!(operator.0 == State::Red && operator.1.contains("install Tidegate's chart"), "{operator:?}");
    let typo = Location { namespace: "nowhere".into(), context: None };
    let report = tidegate_cli::check::look(&space.client, &typo, Some(&space.name)).await.unwrap();
    let webhook = report.findings.iter().find(|finding| finding.link == "webhook").unwrap();
    assert!(webhook.message.contains("not found: correct --namespace"), "{webhook:?}");
    deployed(&space, 0).await;
    let [operator, leader] = said(&space.client, &space, ["operator", "leader"]).await;
    assert!(operator.0 == State::Red && operator.1.starts_with("0 of 1 pods are ready"), "{operator:?}");
    assert!(leader.0 == State::Red && leader.1.contains("no operator renews its Lease"), "{leader:?}");
    let mut config = server_config();
    config.auth_info.impersonate = Some("eve".into());
    let eve = Client::try_from(config).unwrap();
    let links = ["definitions", "operator", "webhook", "certificates", "storage class", "your rights"];
    let [definitions, others @ .., rights] = said(&eve, &space, links).await;
    assert_eq!(definitions.0, State::Ok, "everybody may ask what is served");
    for (state, message) in &others {
        assert!(*state == State::Unknown && message.contains("User \"eve\" cannot"), "{message}");
    }
    // What is not in a namespace is not in a role of one.
    let remedies = ["role view has", "role edit has", "role view has", "an administrator of the cluster"];
    for ((_, message), remedy) in others.iter().zip(remedies) {
        assert!(message.contains(remedy), "{remedy}: {message}");
    }
    assert!(rights.0 == State::Warning && rights.1.contains("list pods"), "{rights:?}");
    for right in [
        "watch eventtopics/events of subresources.tidegate.io (tidegate tail --follow)",
        "delete eventhandlers/deadletters of subresources.tidegate.io (tidegate dead drop)",
        "create eventhandlers/redrive of subresources.tidegate.io (tidegate dead redrive)",
    ] {
        assert!(rights.1.contains(right), "{right}: {rights:?}");
    }
}
