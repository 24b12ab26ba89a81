//! Handlers of another namespace than their topic's: only by its grant, as long as that lasts. With a real nats-server.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_client::contract::{Order, Routing, Sidecar};
use tidegate_broker_client::layout;
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_test_broker::{TestBroker, consumers};
use time::OffsetDateTime;

use crate::handler::{condition, until_reason};
use crate::support::brokers::{Places, account, broker_on, id, server, sidecar_client, topic_at, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually, ingress, merged};
use crate::validation_handler::{handler, spec};

/// A topic `orders` of one namespace, and another namespace, whose handlers name it.
struct World {
    shop: Space,
    web: Space,
    server: TestBroker,
    operator: Operator,
}

impl World {
    /// `grant`: `spec.handlers` of the topic.
    async fn start(purpose: &str, grant: Value) -> Self {
        let (shop, web) = (Space::new(purpose).await, Space::new("web").await);
        let (places, server) = (Places::default(), server().await);
        broker_on(&shop, &places, &server, "default", json!({"storage": {"size": "1Gi"}})).await;
        topic_at(&shop, "default", "orders", json!({"handlers": grant})).await;
        let operator = Operator::start_with_brokers(shop.client.clone(), places.addresses());
        until_ready(&shop, "orders").await;
        Self { shop, web, server, operator }
    }

    /// Makes handler `billing` of the other namespace.
    async fn far_handler(&self, changes: Value) -> EventHandler {
        let far = merged(&json!({"topicNamespace": self.shop.name, "replicas": 1}), &changes);
        self.web.create(handler("billing", spec(far))).await
    }

    /// The names of the consumers that the topic has.
    async fn consumers(&self) -> Vec<String> {
        let topic = account(&self.shop, &self.server, "orders").await;
        let found = consumers(&topic.admin).await;
        let mut names: Vec<String> = found.into_iter().map(|consumer| consumer.name).collect();
        names.sort();
        names
    }

    /// Whether the broker lets in the handler of the other namespace.
    async fn is_let_in(&self, handler: &EventHandler) -> bool {
        let handler = tidegate_broker_admin::guests::Handler {
            topic: id(&self.shop, "orders"),
            name: layout::handler_name(&self.shop.name, &self.web.name, "billing"),
            uid: handler.uid().unwrap(),
            order: Order::None,
            routing: Routing::Queued,
            pods: 1,
        };
        let account = self.server.authority().handler_account(&handler, None, OffsetDateTime::now_utc()).unwrap();
        ingress::claims(&self.server, &account.id).await.is_some()
    }

    async fn until_let_in(&self, handler: &EventHandler) {
        eventually("it is let in", async || self.is_let_in(handler).await.then_some(())).await;
    }
}

async fn refusal(space: &Space) -> String {
    let found = until_reason(space, "Granted", "NotAllowedByTopic").await;
    for (kind, status) in [("Granted", "False"), ("TopicReady", "False"), ("Ready", "False"), ("Stalled", "True")] {
        assert_eq!(condition(&found, kind).unwrap().status, status, "{kind}");
    }
    condition(&found, "Ready").unwrap().message
}

#[tokio::test]
async fn a_handler_of_another_namespace_waits_for_the_grant_and_has_all_in_its_own() {
    let _turn = turn().await;
    let world = World::start("topics", json!({})).await;
    let (shop, web) = (&world.shop, &world.web);
    world.far_handler(json!({})).await;
    let ungranted = refusal(web).await;
    for part in [&format!("namespace {}", shop.name), &format!("grants namespace {}", web.name), "spec.handlers"] {
        assert!(ungranted.contains(part), "{part}: {ungranted}");
    }
    let other = Space::new("other").await;
    let nowhere = spec(json!({"topic": "nowhere", "topicNamespace": shop.name}));
    other.create::<EventHandler>(handler("billing", nowhere)).await;
    let missing = refusal(&other).await.replace("nowhere", "orders").replace(&other.name, &web.name);
    assert_eq!(missing, ungranted, "whether there is such a topic is not told");
    assert_eq!(world.consumers().await, [] as [String; 0]);
    // Beside one of its name in the topic's namespace.
    shop.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    eventually("the near one is subscribed", async || (world.consumers().await == ["billing"]).then_some(())).await;
    let by_name = json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": web.name}}});
    shop.merge::<EventTopic>("orders", json!({"spec": {"handlers": by_name}})).await;
    let name = format!("billing={}", web.name);
    eventually("both are subscribed", async || (world.consumers().await == ["billing", &name]).then_some(())).await;
    let subscribed = until_reason(web, "Subscribed", "Subscribed").await;
    assert_eq!(condition(&subscribed, "Granted").unwrap().reason, "AllowedByTopic");
    world.until_let_in(&subscribed).await;
    let deployment: Deployment =
        eventually("its Deployment", async || web.api().get_opt("billing-handler").await.ok()?).await;
    let template = deployment.spec.unwrap().template;
    let labels = template.metadata.unwrap().labels.unwrap();
    assert_eq!(
        (labels["tidegate.io/broker"].as_str(), &labels["tidegate.io/broker-namespace"]),
        ("default", &shop.name)
    );
    let sidecar = template.spec.unwrap().init_containers.unwrap().remove(0);
    let config = sidecar.env.unwrap().into_iter().find(|variable| variable.name == "TIDEGATE_CONFIG").unwrap();
    let config: Sidecar = serde_json::from_str(&config.value.unwrap()).unwrap();
    assert_eq!(config.servers, [format!("tls://default-broker.{}.svc:4222", shop.name)]);
    assert_eq!((config.namespace.as_str(), &config.handler, config.handler_name()), (&*web.name, &name, "billing"));
    let identity: Secret = web.api().get("billing-identity").await.unwrap();
    assert!(identity.data.unwrap().contains_key("user.jwt"));
    eventually("its topic counts both", async || {
        (shop.api::<EventTopic>().get("orders").await.ok()?.status?.handlers == Some(2)).then_some(())
    })
    .await;
    // Its sidecar's reports are its own.
    let client = sidecar_client(web, &world.server, "billing").await;
    let reports = async {
        loop {
            client
                .publish(format!("reports.{name}"), json!({"pod": "p", "loopbackOnly": true}).to_string().into())
                .await
                .unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        _ = until_reason(web, "Exposed", "ListensOnLoopback") => {}
        () = reports => unreachable!("it reports for ever"),
    }
    assert_eq!(
        condition(&until_reason(shop, "Subscribed", "Subscribed").await, "Exposed").unwrap().reason,
        "NotReported"
    );
    // It leaves nothing, and the other one keeps its place.
    web.api::<EventHandler>().delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", async || web.api::<EventHandler>().get_opt("billing").await.ok()?.is_none().then_some(()))
        .await;
    assert_eq!(world.consumers().await, ["billing"]);
    assert!(!world.is_let_in(&subscribed).await);
    world.operator.stop().await;
}

/// The annotation and the finalizer are for whoever writes the handler, and the grant is not.
#[tokio::test]
async fn a_paused_handler_does_not_keep_what_is_withdrawn() {
    let _turn = turn().await;
    let world = World::start("paused", json!({"from": "All"})).await;
    let web = &world.web;
    let made = world.far_handler(json!({})).await;
    world.until_let_in(&made).await;
    until_reason(web, "Subscribed", "Subscribed").await;
    let pause = json!({"metadata": {"annotations": {"tidegate.io/paused": "true"}, "finalizers": null}});
    web.merge::<EventHandler>("billing", pause).await;
    until_reason(web, "Paused", "Paused").await;
    world.shop.merge::<EventTopic>("orders", json!({"spec": {"handlers": {"from": "Same"}}})).await;
    eventually("it is let in no more", async || (!world.is_let_in(&made).await).then_some(())).await;
    // Whoever asks for its dead letters is told by this.
    until_reason(web, "Granted", "NotAllowedByTopic").await;
    world.operator.stop().await;
}

/// A finalizer that a stranger wrote is no sign that something was made at the topic.
#[tokio::test]
async fn a_handler_that_was_never_let_in_ends_without_a_trace_at_the_topic() {
    let _turn = turn().await;
    let mut world = World::start("never", json!({})).await;
    let far = spec(json!({"topicNamespace": world.shop.name, "replicas": 1}));
    let claims = merged(&handler("billing", far), &json!({"metadata": {"finalizers": ["tidegate.io/cleanup"]}}));
    world.web.create::<EventHandler>(claims).await;
    refusal(&world.web).await;
    // There is nothing to wait for, so not for its broker.
    world.server.stop();
    world.web.api::<EventHandler>().delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", async || {
        world.web.api::<EventHandler>().get_opt("billing").await.ok()?.is_none().then_some(())
    })
    .await;
    let topic: EventTopic = world.shop.api().get("orders").await.unwrap();
    assert_eq!(topic.metadata.annotations, None);
    assert_eq!(world.web.events("LeftOnBroker").await, [] as [String; 0]);
    world.operator.stop().await;
}

#[tokio::test]
async fn a_handler_that_is_not_granted_any_more_is_let_in_no_more_and_keeps_its_place() {
    let _turn = turn().await;
    let team = json!({"from": "Selector", "selector": {"matchLabels": {"team": "front"}}});
    let world = World::start("handlers", team).await;
    let (web, name) = (&world.web, format!("billing={}", world.web.name));
    let label = async |value: Option<&str>| {
        let api: Api<Namespace> = Api::all(web.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": {"team": value}}}));
        api.patch(&web.name, &PatchParams::default(), &patch).await.unwrap();
    };
    label(Some("front")).await;
    let made = world.far_handler(json!({})).await;
    world.until_let_in(&made).await;
    until_reason(web, "Subscribed", "Subscribed").await;
    label(None).await;
    refusal(web).await;
    eventually("it is let in no more", async || (!world.is_let_in(&made).await).then_some(())).await;
    assert_eq!(world.consumers().await, std::slice::from_ref(&name), "its place stays");
    // Not even what looks for leftovers takes it.
    world.shop.merge::<EventTopic>("orders", json!({"spec": {"retention": {"maxSize": "128Mi"}}})).await;
    until_ready(&world.shop, "orders").await;
    assert_eq!(world.consumers().await, std::slice::from_ref(&name));
    label(Some("front")).await;
    world.until_let_in(&made).await;
    until_reason(web, "Granted", "AllowedByTopic").await;
    // Withdrawn once more, and deleted: what it had on the broker goes with it.
    label(None).await;
    refusal(web).await;
    web.api::<EventHandler>().delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", async || web.api::<EventHandler>().get_opt("billing").await.ok()?.is_none().then_some(()))
        .await;
    assert_eq!(world.consumers().await, [] as [String; 0]);
    world.operator.stop().await;
}
