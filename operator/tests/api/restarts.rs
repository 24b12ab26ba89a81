//! A broker's servers form their cluster, and its pods are restarted one by one, as real nats-servers allow it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use tidegate_broker_admin::issuers::certificate_end;
use tidegate_broker_admin::membership::{CertificateEnds, reload_certificates};
use tidegate_crds::EventBroker;
use tidegate_test_broker::{LIMIT, TestBroker};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use crate::broker::{condition, until_broker};
use crate::support::brokers::{Places, keep_keys, run_broker_pod, run_missing_pods, status};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};

/// Longer than the operator takes for its next look.
const SEVERAL_LOOKS: Duration = Duration::from_secs(7);

/// Makes the broker `orders` with these servers, and lets the operator find that they are a cluster.
pub async fn formed(space: &Space, places: &Places, server: &TestBroker, replicas: i32) -> Operator {
    keep_keys(space, places, server, "orders").await;
    space.broker("orders", json!({"replicas": replicas, "storage": {"size": "1Gi"}})).await;
    places.set_digests(space, "orders", server.site().routes, server.site().digests);
    let operator = Operator::start_with_servers(space.client.clone(), places);
    until_broker(space, "orders", "Ready", "PodsNotReady").await;
    assert!(!space.api::<EventBroker>().get("orders").await.unwrap().status.unwrap().formed);
    assert_eq!(has_seed(space).await, replicas == 1);
    server.bring_certificates(certificates(space, "orders").await);
    run_missing_pods(space, "orders").await;
    let counts = json!({"replicas": replicas, "readyReplicas": replicas, "observedGeneration": 1});
    status::<StatefulSet>(space, "orders-broker", counts).await;
    eventually("it has formed", async || {
        space.api::<EventBroker>().get("orders").await.ok()?.status?.formed.then_some(())
    })
    .await;
    until_broker(space, "orders", "Ready", "Ready").await;
    operator
}

/// When the certificates of the Secrets of a broker's servers end.
pub async fn certificates(space: &Space, broker: &str) -> CertificateEnds {
    let end = async |secret: &str| {
        let secret: Secret = space.api().get(&format!("{broker}-{secret}")).await.unwrap();
        certificate_end(std::str::from_utf8(&secret.data.unwrap()["tls.crt"].0).unwrap())
    };
    CertificateEnds { clients: end("broker").await, routes: end("routes").await }
}

async fn has_seed(space: &Space) -> bool {
    let set: StatefulSet = space.api().get("orders-broker").await.unwrap();
    set.spec.unwrap().template.spec.unwrap().init_containers.is_some()
}

pub async fn pods(space: &Space) -> BTreeSet<(String, Option<String>)> {
    let pods: Api<Pod> = space.api();
    let pods = pods.list(&ListParams::default().labels("tidegate.io/broker=orders")).await.unwrap();
    pods.items.iter().map(|pod| (pod.name_any(), pod.uid())).collect()
}

/// Changes what the pods are made of.
pub async fn change(space: &Space) {
    let larger = json!({"spec": {"pods": {"resources": {"limits": {"memory": "1Gi"}}}}});
    space.merge::<EventBroker>("orders", larger).await;
}

async fn until_at_rest(space: &Space) {
    eventually("nothing is restarted any more", async || {
        let broker: EventBroker = space.api().get("orders").await.ok()?;
        (condition(&broker, "Reconciling")?.status == "False").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_single_server_forms_without_its_pod_being_restarted_and_has_no_seed_from_then_on() {
    let _turn = turn().await;
    let (space, places) = (Space::new("formed").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 1);
    server.seed().unwrap();
    server.wake();
    assert!(server.serves_within(LIMIT).await, "{}", server.log());
    server.add_first_topic().await;
    let operator = formed(&space, &places, &server, 1).await;
    eventually("a pod that is made now has no seed", async || (!has_seed(&space).await).then_some(())).await;
    let first = pods(&space).await;
    sleep(SEVERAL_LOOKS).await;
    assert_eq!(pods(&space).await, first, "no pod is restarted for that");
    change(&space).await;
    eventually("its pod is restarted", async || pods(&space).await.is_empty().then_some(())).await;
    assert_eq!(run_missing_pods(&space, "orders").await, ["orders-broker-0"]);
    until_at_rest(&space).await;
    assert!(space.api::<EventBroker>().get("orders").await.unwrap().status.unwrap().formed);
    // As an earlier version left it: then the controller would restart pods by itself.
    let rolling = json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    space.merge::<StatefulSet>("orders-broker", rolling).await;
    eventually("only the operator restarts pods", async || {
        let set: StatefulSet = space.api().get("orders-broker").await.ok()?;
        (set.spec?.update_strategy?.type_.as_deref() == Some("OnDelete")).then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn three_are_restarted_one_by_one_the_leader_last_and_none_while_a_server_is_away() {
    let _turn = turn().await;
    let (space, places) = (Space::new("restarts").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 3);
    server.wake();
    server.start_all().await;
    server.add_first_topic().await;
    let operator = formed(&space, &places, &server, 3).await;
    let first = pods(&space).await;
    // The kubelet has not noticed.
    server.stop_at(1);
    change(&space).await;
    let broker = eventually("it says what it waits for", async || {
        let broker: EventBroker = space.api().get("orders").await.ok()?;
        let found = condition(&broker, "Reconciling")?;
        (found.reason == "RestartingPods" && found.message.contains("orders-broker-1")).then_some(broker)
    })
    .await;
    assert_eq!(condition(&broker, "Ready").unwrap().status, "True");
    sleep(SEVERAL_LOOKS).await;
    assert_eq!(pods(&space).await, first, "none is restarted while a server is away");
    server.start_at(1).await;
    let mut restarted = Vec::new();
    while restarted.len() < 3 {
        let missing = eventually("the next pod is restarted", async || {
            let there = pods(&space).await;
            let is_missing =
                |ordinal: &usize| !there.iter().any(|(name, _)| *name == format!("orders-broker-{ordinal}"));
            let missing: Vec<usize> = (0..3).filter(is_missing).collect();
            (!missing.is_empty()).then_some(missing)
        })
        .await;
        assert_eq!(missing.len(), 1, "one at a time: {missing:?}");
        let leader = server.monitoring_at(missing[0], "jsz").await["meta_cluster"]["leader"].clone();
        assert_ne!(leader, format!("orders-broker-{}", missing[0]), "{restarted:?}: it leads");
        server.restart_in_order(missing[0]).await;
        run_missing_pods(&space, "orders").await;
        restarted.push(missing[0]);
    }
    assert_eq!(restarted.iter().collect::<BTreeSet<_>>().len(), 3, "{restarted:?}: each once");
    until_at_rest(&space).await;
    operator.stop().await;
}

/// When the certificates of all servers end, as they say.
async fn used(server: &TestBroker, servers: usize) -> BTreeSet<[String; 2]> {
    let mut found = BTreeSet::new();
    for ordinal in 0..servers {
        let page = server.monitoring_at(ordinal, "varz").await;
        found.insert([&page["tls_cert_not_after"], &page["cluster"]["tls_cert_not_after"]].map(ToString::to_string));
    }
    found
}

#[tokio::test]
async fn servers_take_renewed_certificates_without_a_restart() {
    let _turn = turn().await;
    let (space, places) = (Space::new("reload").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 3);
    server.wake();
    server.start_all().await;
    server.add_first_topic().await;
    let operator = formed(&space, &places, &server, 3).await;
    until_at_rest(&space).await;
    let (first_pods, before, client) = (pods(&space).await, used(&server, 3).await, server.operator());
    assert_eq!(before.len(), 1, "{before:?}");
    let connects = || client.statistics().connects.load(Ordering::Relaxed);
    let first_connects = connects();
    // As in the last third of their lives. A second later they end a second later.
    sleep(Duration::from_secs(1)).await;
    for secret in ["orders-broker", "orders-routes"] {
        space.api::<Secret>().delete(secret, &DeleteParams::default()).await.unwrap();
    }
    let broker = eventually("it says what it waits for", async || {
        let broker: EventBroker = space.api().get("orders").await.ok()?;
        let found = condition(&broker, "Reconciling")?;
        let names_all = (0..3).all(|ordinal| found.message.contains(&format!("orders-broker-{ordinal}")));
        (found.reason == "ReloadingCertificates" && names_all).then_some(broker)
    })
    .await;
    assert_eq!(condition(&broker, "Ready").unwrap().status, "True");
    sleep(SEVERAL_LOOKS).await;
    assert_eq!(used(&server, 3).await, before, "the kubelet has not brought them");
    server.bring_certificates(certificates(&space, "orders").await);
    until_at_rest(&space).await;
    let after = used(&server, 3).await;
    assert!(after.len() == 1 && after != before, "{after:?}");
    let [clients, routes] = after.first().unwrap().each_ref().map(|end| end.trim_matches('"').to_owned());
    let wanted = certificates(&space, "orders").await;
    let shown = |end: Option<time::OffsetDateTime>| end.unwrap().format(&Rfc3339).unwrap();
    assert_eq!((clients, routes), (shown(wanted.clients), shown(wanted.routes)));
    let broker: EventBroker = space.api().get("orders").await.unwrap();
    assert_eq!(condition(&broker, "CertificatesCurrent").unwrap().reason, "FarFromEnd");
    let said = broker.status.unwrap().certificates.unwrap();
    let first = wanted.clients.min(wanted.routes);
    assert!(said.expire.is_some_and(|end| end <= shown(first)) && said.authorities_expire > Some(shown(first)));
    assert_eq!(pods(&space).await, first_pods, "no pod was restarted");
    client.flush().await.unwrap();
    assert_eq!(connects(), first_connects, "and no connection ended");
    operator.stop().await;
}

#[tokio::test]
async fn certificates_near_their_end_wait_for_no_restart_and_a_server_that_is_cut_off_counts() {
    let _turn = turn().await;
    let (space, places) = (Space::new("reload-near").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 3);
    server.wake();
    server.start_all().await;
    server.add_first_topic().await;
    let operator = formed(&space, &places, &server, 3).await;
    until_at_rest(&space).await;
    let first = pods(&space).await;
    // The kubelet has not noticed that it is away, and a restart waits for it.
    server.stop_at(1);
    change(&space).await;
    until_broker(&space, "orders", "Reconciling", "RestartingPods").await;
    let near = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap() + Duration::from_secs(5 * 24 * 60 * 60);
    let near = CertificateEnds { clients: Some(near), routes: Some(near) };
    server.bring_certificates(near);
    let system = server.system_client().await;
    reload_certificates(&system, &server.site(), near, None).await.unwrap();
    let broker = until_broker(&space, "orders", "CertificatesCurrent", "NearEnd").await;
    let message = condition(&broker, "CertificatesCurrent").unwrap().message;
    assert!(message.starts_with("the certificate that orders-broker-"), "{message}");
    server.bring_certificates(certificates(&space, "orders").await);
    eventually("those that run use the new ones", async || {
        let message = condition(&space.api::<EventBroker>().get("orders").await.ok()?, "CertificatesCurrent")?.message;
        message.contains("orders-broker-1 (no answer now)").then_some(())
    })
    .await;
    let wanted = certificates(&space, "orders").await;
    let used = reload_certificates(&system, &server.site(), wanted, None).await.unwrap();
    assert_eq!((used.current.len(), used.behind.len()), (2, 0));
    assert_eq!(pods(&space).await, first, "no pod was restarted");
    server.start_at(1).await;
    until_broker(&space, "orders", "CertificatesCurrent", "FarFromEnd").await;
    operator.stop().await;
}

#[tokio::test]
async fn servers_without_a_majority_say_so_although_their_pods_are_ready() {
    let _turn = turn().await;
    let (space, places) = (Space::new("majority").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 3);
    server.wake();
    server.start_all().await;
    server.add_first_topic().await;
    let operator = formed(&space, &places, &server, 3).await;
    // The kubelet has not noticed.
    server.stop_at(1);
    server.stop_at(2);
    change(&space).await;
    let broker = until_broker(&space, "orders", "BrokerAvailable", "NoMajority").await;
    let message = condition(&broker, "BrokerAvailable").unwrap().message;
    assert!(message.contains("1 answer (orders-broker-0)"), "{message}");
    assert!(message.contains("Waiting for orders-broker-1, orders-broker-2"), "{message}");
    assert_eq!(condition(&broker, "Ready").unwrap().reason, "NoMajority");
    server.start_at(1).await;
    until_broker(&space, "orders", "BrokerAvailable", "AllReady").await;
    operator.stop().await;
}

/// What a broker looks like whose only pod came up on an empty volume.
#[tokio::test]
async fn a_single_server_that_lost_its_volume_does_not_begin_anew_and_says_so() {
    let _turn = turn().await;
    let (space, places) = (Space::new("volume-lost").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 1);
    server.wake();
    keep_keys(&space, &places, &server, "orders").await;
    space.broker("orders", json!({"storage": {"size": "1Gi"}})).await;
    status::<EventBroker>(&space, "orders", json!({"formed": true, "conditions": []})).await;
    assert!(!server.serves_within(Duration::from_secs(1)).await);
    server.push_ingress_account().await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    run_broker_pod(&space, "orders").await;
    let broker = until_broker(&space, "orders", "BrokerAvailable", "VolumeLost").await;
    assert_eq!(condition(&broker, "Stalled").unwrap().status, "True");
    assert!(!has_seed(&space).await);
    operator.stop().await;
}
