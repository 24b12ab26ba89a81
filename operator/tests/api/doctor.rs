//! What `tidegate doctor` finds on an API server, by users with and without rights.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use serde_json::{Value, json};
use tidegate_cli::doctor::facts::{self, Seen};
use tidegate_cli::doctor::finding::State;
use tidegate_cli::doctor::look;
use tidegate_cli::doctor::show::Report;
use tidegate_cli::failure::Failure;
use tidegate_cli::stored::Location;
use tidegate_crds::EventHandler;
use tidegate_operator::kubernetes::names;

use crate::handler::until_reason;
use crate::support::brokers::{Places, server, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually, server_config};
use crate::validation_handler::{handler, spec};

/// May read what is Tidegate's, and no pods.
const BOB: &str = "bob";
/// May read nothing.
const EVE: &str = "eve";

async fn found(client: &Client, space: &Space, resource: &str) -> Result<Report, Failure> {
    let location = Location { namespace: space.name.clone(), context: None };
    look(client, &location, &resource.parse().unwrap()).await
}

fn client_of(user: &str) -> Client {
    let mut config = server_config();
    config.default_retry = false;
    config.auth_info.impersonate = Some(user.to_owned());
    Client::try_from(config).unwrap()
}

async fn grant(space: &Space, user: &str, rules: Value) {
    let meta = json!({"name": user});
    space.create::<Role>(json!({"metadata": meta, "rules": rules})).await;
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
    space.create::<RoleBinding>(json!({"metadata": meta, "roleRef": role, "subjects": [subject]})).await;
}

fn unread(report: &Report) -> Vec<&'static str> {
    report.findings.iter().filter(|finding| finding.is_unread).map(|finding| finding.link).collect()
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_the_first_red_line() {
    let _turn = turn().await;
    let space = Space::new("doctor").await;
    let resource = handler("billing", spec(json!({"topic": "nowhere"})));
    space.create::<EventHandler>(resource).await;
    let report = found(&space.client, &space, "handler/billing").await.unwrap();
    assert_eq!(report.first_red().unwrap().link, "topic", "no operator is needed to see that");
    assert!(unread(&report).contains(&"handler"), "no operator has looked at it");
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "TopicReady", "TopicNotFound").await;
    let report = found(&space.client, &space, "eh/billing").await.unwrap();
    let red = report.first_red().unwrap();
    let says = format!("there is no EventTopic nowhere in namespace {}: make it", space.name);
    assert!(red.link == "topic" && red.message.starts_with(&says), "{red:?}");
    assert_eq!(report.outcome().unwrap_err().code(), 6);
}

#[tokio::test]
async fn what_works_is_seen_and_what_may_not_be_read_is_named() {
    let _turn = turn().await;
    let (space, places) = (Space::new("doctor-rights").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let _operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    until_reason(&space, "Subscribed", "Subscribed").await;

    let report = found(&space.client, &space, "topic/orders").await.unwrap();
    assert!(report.first_red().is_none() && report.outcome().is_ok(), "{:#?}", report.findings);
    let report = found(&space.client, &space, "handler/billing").await.unwrap();
    assert_eq!(report.first_red().unwrap().link, "pods", "no one makes any here: {:#?}", report.findings);
    let named = report.findings.iter().find(|finding| finding.link == "subscription").unwrap();
    assert_eq!((named.state, named.object.as_str()), (State::Ok, &*format!("EventHandler {}/billing", space.name)));

    let rights = json!([{"apiGroups": ["tidegate.io"], "resources": ["*"], "verbs": ["get", "list"]}]);
    grant(&space, BOB, rights).await;
    let bob = client_of(BOB);
    let report = eventually("a right", async || found(&bob, &space, "topic/orders").await.ok()).await;
    assert_eq!(unread(&report), ["broker pods"]);
    let pods = report.findings.iter().find(|finding| finding.is_unread).unwrap();
    let says = "User \"bob\" cannot list resource \"pods\" in API group \"\"";
    assert!(
        pods.message.contains(says) && pods.message.ends_with("ask for that right, which role view has"),
        "{pods:?}"
    );
    assert_eq!(report.outcome().unwrap_err().code(), 5);
    let report = found(&bob, &space, "handler/billing").await.unwrap();
    assert_eq!(report.first_red().unwrap().link, "pods", "the operator's word is enough");

    let Err(refused) = found(&client_of(EVE), &space, "handler/billing").await else { panic!("eve sees it") };
    let says = refused.to_string();
    assert!(says.contains("cannot get resource \"eventhandlers\"") && says.contains("ask for the right"), "{says}");
    assert_eq!(refused.code(), 5);
}

#[tokio::test]
async fn a_wrong_name_is_answered_with_those_that_there_are() {
    let space = Space::new("doctor-names").await;
    let missing = async |resource| {
        let Err(missing) = found(&space.client, &space, resource).await else { panic!("there is one") };
        assert_eq!(missing.code(), 5);
        missing.to_string()
    };
    let says = missing("topic/order").await;
    assert!(
        says.ends_with(&format!("there is no EventTopic {}/order: correct the name, or say --namespace", space.name))
    );
    space.topic("orders", json!({})).await;
    assert!(missing("topic/order").await.ends_with("or say --namespace; there are orders"));
}

/// As role view of Kubernetes 1.29 has it, without the Events of events.k8s.io.
#[tokio::test]
async fn warnings_about_pods_are_read_with_the_rights_of_role_view() {
    let space = Space::new("doctor-events").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"topic": "orders"})))).await;
    let labels = names::handler_selector("billing");
    let pod = json!({
        "metadata": {"name": "billing-1", "labels": labels},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    });
    space.create::<Pod>(pod).await;
    let event = json!({
        "metadata": {"name": "billing-1.1"}, "type": "Warning", "reason": "FailedMount", "message": "no such volume",
        "involvedObject": {"kind": "Pod", "name": "billing-1", "namespace": space.name},
    });
    space.create::<Event>(event).await;
    let rights = json!([
        {"apiGroups": ["tidegate.io"], "resources": ["*"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list"]},
    ]);
    grant(&space, BOB, rights).await;
    let (bob, location) = (client_of(BOB), Location { namespace: space.name.clone(), context: None });
    let target = "handler/billing".parse().unwrap();
    let facts = eventually("a right", async || facts::read(&bob, &location, &target).await.ok()).await;
    let Some(Seen::There(warnings)) = facts.warnings else { panic!("{:?}", facts.warnings) };
    assert_eq!(warnings[0].message.as_deref(), Some("no such volume"));
}

#[tokio::test]
async fn handlers_are_counted_beyond_a_page() {
    let space = Space::new("doctor-many").await;
    space.topic("orders", json!({})).await;
    for number in 1..=505 {
        space.create::<EventHandler>(handler(&format!("h{number}"), spec(json!({"replicas": 1})))).await;
    }
    let report = found(&space.client, &space, "topic/orders").await.unwrap();
    let handlers = report.findings.iter().find(|finding| finding.link == "handlers").unwrap();
    assert_eq!(handlers.message, "0 of 505 in this namespace are ready");
}
