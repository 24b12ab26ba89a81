//! Topics on a broker of another namespace: only by its grant, as long as that lasts, and apart from those of other
//! namespaces. With a real nats-server.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_client::contract::Routing;
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_test_broker::{TestBroker, answer};
use time::OffsetDateTime;

use crate::children;
use crate::support::brokers::{
    Places, account, broker_on, id, keys, pods_are_ready, publish_one, server, topic_at, until_ready,
};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually, ingress, merged};
use crate::topic::{condition, gone, until_reason};

/// A broker `default` of a namespace, and another namespace, whose topics name it.
pub struct World {
    pub shop: Space,
    pub web: Space,
    pub server: TestBroker,
    pub operator: Operator,
}

impl World {
    /// `grant`: `spec.topics` of the broker.
    pub async fn start(purpose: &str, grant: Value) -> Self {
        let (shop, web) = (Space::new(purpose).await, Space::new("web").await);
        let (places, server) = (Places::default(), server().await);
        let spec = json!({"storage": {"size": "1Gi"}, "topics": grant});
        broker_on(&shop, &places, &server, "default", spec).await;
        let operator = Operator::start_with_brokers(shop.client.clone(), places.addresses());
        Self { shop, web, server, operator }
    }

    /// Makes a topic of the other namespace on the broker.
    pub async fn far_topic(&self, name: &str, spec: Value) {
        let on = json!({"broker": {"namespace": self.shop.name}});
        topic_at(&self.web, "default", name, merged(&on, &spec)).await;
    }

    /// Waits until a topic of the other namespace is ready.
    pub async fn until_far_ready(&self, name: &str) {
        until_reason(&self.web, name, "StreamReady", "Configured").await;
        pods_are_ready(&self.shop, "default").await;
        until_reason(&self.web, name, "Ready", "Ready").await;
    }

    pub async fn grant(&self, grant: Value) {
        self.shop.merge::<EventBroker>("default", json!({"spec": {"topics": grant}})).await;
    }

    /// Gives the other namespace this label, or takes it.
    pub async fn label(&self, value: Option<&str>) {
        let api: Api<Namespace> = Api::all(self.web.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": {"team": value}}}));
        api.patch(&self.web.name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The topics that the ingresses are told of: namespace and name.
    pub async fn served(&self) -> Vec<String> {
        let topics = ingress::topics(&self.shop.api(), "default-topics").await.topics;
        topics.iter().map(|topic| topic.id.to_string()).collect()
    }

    /// What the account of the ingresses has of topics' accounts, in the broker's own words.
    async fn has_imports_of(&self, space: &Space, topic: &str) -> bool {
        let now = OffsetDateTime::now_utc();
        let authority = self.server.authority();
        let of_ingress = authority.ingress_account(&[], now).unwrap().id;
        let of_topic = authority.topic_account(&id(space, topic), Routing::Queued, Some(1), now).unwrap().id;
        let claims = ingress::claims(&self.server, &of_ingress).await.unwrap();
        decoded(&claims).contains(&of_topic)
    }
}

/// The middle part of a JWT.
fn decoded(jwt: &str) -> String {
    use base64::Engine as _;
    let part = jwt.split('.').nth(1).unwrap();
    String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn by_team() -> Value {
    json!({"from": "Selector", "selector": {"matchLabels": {"team": "front"}}})
}

/// What a topic says of why it may not be there.
async fn refusal(space: &Space, name: &str) -> String {
    let topic = until_reason(space, name, "Granted", "NotAllowedByBroker").await;
    for (kind, status) in [("Granted", "False"), ("Ready", "False"), ("Stalled", "True"), ("StreamReady", "Unknown")] {
        let found = condition(&topic, kind).unwrap();
        assert_eq!((found.status.as_str(), found.observed_generation), (status, topic.metadata.generation), "{kind}");
    }
    assert_eq!(condition(&topic, "Ready").unwrap().reason, "NotAllowedByBroker");
    condition(&topic, "Granted").unwrap().message
}

async fn publish(space: &Space, server: &TestBroker, topic: &str, events: usize) {
    let js = tidegate_test_broker::jetstream(account(space, server, topic).await.operator);
    for _ in 0..events {
        publish_one(&js).await;
    }
}

async fn stored(space: &Space, server: &TestBroker, topic: &str) -> u64 {
    let topic = account(space, server, topic).await;
    answer(async || topic.admin.stream("events").await).await.state.messages
}

#[tokio::test]
async fn what_is_not_granted_says_who_grants_it_and_not_whether_it_is_there() {
    let _turn = turn().await;
    let world = World::start("granted", json!({})).await;
    let (shop, web) = (&world.shop, &world.web);
    world.far_topic("orders", json!({})).await;
    web.topic("invoices", json!({"broker": {"name": "nowhere", "namespace": shop.name}})).await;
    web.topic("letters", json!({"broker": {"name": "default", "namespace": "no-such-namespace"}})).await;
    let ungranted = refusal(web, "orders").await;
    let needed = [format!("namespace {}", shop.name), format!("grants namespace {}", web.name), "spec.topics".into()];
    for part in needed {
        assert!(ungranted.contains(&part), "{part}: {ungranted}");
    }
    assert_eq!(refusal(web, "invoices").await.replace("nowhere", "default"), ungranted);
    assert_eq!(refusal(web, "letters").await.replace("no-such-namespace", &shop.name), ungranted);
    // Nothing is made of it anywhere, and its broker says nothing of it.
    assert_eq!(children::kinds(&children::of_topic(web, "orders").await), [] as [&str; 0]);
    eventually("the broker counts none", async || {
        (shop.api::<EventBroker>().get("default").await.ok()?.status?.topics == 0).then_some(())
    })
    .await;
    assert!(web.api::<EventBroker>().get_opt("default").await.unwrap().is_none(), "it asked for another one");
    for name in ["orders", "invoices"] {
        web.api::<EventTopic>().delete(name, &DeleteParams::default()).await.unwrap();
        gone(web, name).await;
    }
    assert_eq!(web.events("BrokerGone").await, [] as [String; 0], "that would tell them apart");
    // Once granted, it is there by itself.
    world.far_topic("orders", json!({})).await;
    refusal(web, "orders").await;
    world.grant(json!({"from": "All"})).await;
    world.until_far_ready("orders").await;
    world.operator.stop().await;
}

#[tokio::test]
async fn a_topic_of_another_namespace_lives_by_its_grant() {
    let _turn = turn().await;
    let world = World::start("lives", by_team()).await;
    let (shop, web, server) = (&world.shop, &world.web, &world.server);
    world.far_topic("orders", json!({"publishers": [{"nats": "cli"}]})).await;
    refusal(web, "orders").await;
    world.label(Some("front")).await;
    world.until_far_ready("orders").await;
    let topic: EventTopic = web.api().get("orders").await.unwrap();
    assert_eq!(condition(&topic, "Granted").unwrap().reason, "AllowedByBroker");
    let address = topic.status.unwrap().address.unwrap();
    assert_eq!(address.url, format!("https://orders-topic.{}.svc", web.name));
    let host = format!("default-broker.{}.svc", shop.name);
    assert_eq!(address.nats_url, Some(format!("tls://{host}:4222")));
    let service: Service = web.api().get("orders-topic").await.unwrap();
    let spec = service.spec.unwrap();
    assert_eq!(
        (spec.type_.as_deref(), spec.external_name),
        (Some("ExternalName"), Some(format!("{host}.cluster.local")))
    );
    let ca: ConfigMap = web.api().get("orders-ca").await.unwrap();
    assert_eq!(ca.data.unwrap()["ca.crt"], server.authority().trusted_servers());
    let publisher: Secret = web.api().get("orders-publisher-cli").await.unwrap();
    let url = publisher.data.unwrap()["url"].0.clone();
    assert_eq!(String::from_utf8(url).unwrap(), format!("tls://{host}:4222"));
    let of_topic = format!("{}/orders", web.name);
    assert_eq!(world.served().await, std::slice::from_ref(&of_topic));
    publish(web, server, "orders", 3).await;
    // Withdrawn: nothing is let in any more, and what is stored stays.
    let now = OffsetDateTime::now_utc();
    let of_publisher = server.authority().publisher_account(&id(web, "orders"), "cli", None, now).unwrap();
    assert!(ingress::claims(server, &of_publisher.id).await.is_some(), "the test looks where something is");
    assert!(world.has_imports_of(web, "orders").await, "the same");
    world.label(None).await;
    let withdrawn = refusal(web, "orders").await;
    assert!(withdrawn.contains("no event is taken or delivered"), "{withdrawn}");
    eventually("the ingresses hear of it", async || world.served().await.is_empty().then_some(())).await;
    eventually("its publisher is not let in", async || {
        ingress::claims(server, &of_publisher.id).await.is_none().then_some(())
    })
    .await;
    assert!(!world.has_imports_of(web, "orders").await);
    let note = eventually("a warning", async || web.events("NotAllowedByBroker").await.pop()).await;
    assert!(note.contains(&shop.name), "{note}");
    assert_eq!(stored(web, server, "orders").await, 3);
    // The status keeps its promise, so the broker has its room.
    let promised = web.api::<EventTopic>().get("orders").await.unwrap().status.unwrap().promised;
    assert!(promised.is_some_and(|bytes| bytes > 0));
    world.label(Some("front")).await;
    world.until_far_ready("orders").await;
    assert_eq!((world.served().await, stored(web, server, "orders").await), (vec![of_topic], 3));
    assert!(ingress::claims(server, &of_publisher.id).await.is_some());
    world.operator.stop().await;
}

#[tokio::test]
async fn two_topics_of_one_name_in_two_namespaces_share_a_broker_and_nothing_else() {
    let _turn = turn().await;
    let world = World::start("twins", json!({"from": "All"})).await;
    let (shop, web, server) = (&world.shop, &world.web, &world.server);
    topic_at(shop, "default", "orders", json!({})).await;
    until_ready(shop, "orders").await;
    world.far_topic("orders", json!({})).await;
    world.until_far_ready("orders").await;
    publish(shop, server, "orders", 1).await;
    publish(web, server, "orders", 2).await;
    assert_eq!((stored(shop, server, "orders").await, stored(web, server, "orders").await), (1, 2));
    let mut both = [shop, web].map(|space| format!("{}/orders", space.name));
    both.sort();
    assert_eq!(world.served().await, both);
    let hosts: Vec<String> = ingress::topics(&shop.api(), "default-topics")
        .await
        .topics
        .iter()
        .flat_map(|topic| topic.hosts.clone())
        .filter(|host| host.ends_with(".svc"))
        .collect();
    assert_eq!(hosts.len(), 2);
    assert_ne!(hosts[0], hosts[1]);
    // Each has its promise: 256 MiB and a quarter.
    let promise = 320 << 20;
    let broker = eventually("the broker counts both", async || {
        let status = shop.api::<EventBroker>().get("default").await.ok()?.status?;
        (status.topics == 2).then_some(status)
    })
    .await;
    assert_eq!(broker.storage.unwrap().promised_bytes, 2 * promise);
    // Retained, each is known apart from the other; made again, it has its own events.
    web.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(web, "orders").await;
    let noted = keys(shop, "default").await.unwrap();
    let key = format!("{}.retained-topic.tidegate.io/orders", web.name);
    assert_eq!(noted.annotations().get(&key), Some(&promise.to_string()), "{:?}", noted.annotations());
    assert!(!noted.annotations().contains_key("retained-topic.tidegate.io/orders"));
    assert_eq!(stored(shop, server, "orders").await, 1);
    for (kind, child) in children::of_topic(web, "orders").await {
        children::api(web, kind).delete(&child.name_any(), &DeleteParams::default()).await.unwrap();
    }
    world.far_topic("orders", json!({"deletionPolicy": "Delete"})).await;
    world.until_far_ready("orders").await;
    assert_eq!(stored(web, server, "orders").await, 2);
    // Deleted, one takes nothing of the other.
    web.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(web, "orders").await;
    assert_eq!(stored(shop, server, "orders").await, 1);
    until_ready(shop, "orders").await;
    let noted = keys(shop, "default").await.unwrap();
    assert!(!noted.annotations().contains_key(&key), "nothing of it is left");
    world.operator.stop().await;
}
