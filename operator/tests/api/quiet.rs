//! The operator is quiet: what it costs the API server while events flow, and while nothing happens.

use std::time::{Duration, Instant};

use http::Method;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::Api;
use serde_json::{Value, json};
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_operator::kubernetes::names;
use tidegate_test_broker::{TestBroker, TopicHandle};
use tokio_util::task::AbortOnDropHandle;

use crate::support::brokers::{Places, account, broker_on, publish, publish_one, server, topic_at, until_ready};
use crate::support::counted::{Count, writes};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

/// Room for the dead letters of a hundred handlers.
fn roomy() -> Value {
    json!({"retention": {"maxSize": "400Mi"}, "maxEventSize": "64Ki"})
}

/// A broker with two topics, `orders` and `invoices`.
async fn two_topics(space: &Space, places: &Places) -> TestBroker {
    let broker = server().await;
    broker_on(space, places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    topic_at(space, "default", "orders", roomy()).await;
    topic_at(space, "default", "invoices", json!({})).await;
    broker
}

/// Two topics on one broker; one has handlers of a fixed size, and events that are never taken.
struct Busy {
    requests: Count,
    space: Space,
    places: Places,
    operator: Operator,
    _events: Option<AbortOnDropHandle<()>>,
    _broker: TestBroker,
}

impl Busy {
    async fn start(handlers: usize, per_second: u32) -> Self {
        let (space, places, requests) = (Space::new("busy").await, Places::default(), Count::default());
        let broker = two_topics(&space, &places).await;
        let operator = Operator::start_with_brokers(requests.client(), places.addresses());
        until_ready(&space, "orders").await;
        until_ready(&space, "invoices").await;
        let topic: TopicHandle = account(&space, &broker, "orders").await;
        publish_one(&tidegate_test_broker::jetstream(topic.operator.clone())).await;
        for number in 0..handlers {
            space.create::<EventHandler>(handler(&format!("h{number}"), spec(json!({"replicas": 1})))).await;
        }
        let events = (per_second > 0).then(|| publish(&topic, per_second));
        let busy = Self { requests, space, places, operator, _events: events, _broker: broker };
        busy.until_shown(handlers).await;
        busy
    }

    /// Without handlers and events.
    async fn at_rest() -> Self {
        let (space, places, requests) = (Space::new("at-rest").await, Places::default(), Count::default());
        let broker = two_topics(&space, &places).await;
        let operator = Operator::start_with_brokers(requests.client(), places.addresses());
        until_ready(&space, "orders").await;
        until_ready(&space, "invoices").await;
        let busy = Self { requests, space, places, operator, _events: None, _broker: broker };
        busy.until_at_rest().await;
        busy
    }

    /// The status of the topic and of all handlers have numbers.
    async fn until_shown(&self, handlers: usize) {
        let topics: Api<EventTopic> = self.space.api();
        eventually("a topic's numbers", async || topics.get("orders").await.ok()?.status?.events.filter(|n| *n > 0))
            .await;
        let api: Api<EventHandler> = self.space.api();
        for number in 0..handlers {
            eventually("a handler's numbers", async || api.get(&format!("h{number}")).await.ok()?.status?.lag).await;
        }
        self.until_at_rest().await;
    }

    /// What was begun is done: nothing is written for a moment.
    async fn until_at_rest(&self) {
        eventually("the operator has done what it had to do", async || {
            self.take();
            tokio::time::sleep(Duration::from_secs(2)).await;
            writes(&self.take()).is_empty().then_some(())
        })
        .await;
    }

    async fn during(&self, time: Duration) -> Vec<(Method, String)> {
        self.take();
        tokio::time::sleep(time).await;
        self.take()
    }

    /// What is about this space or the whole cluster: other tests have left resources behind.
    fn take(&self) -> Vec<(Method, String)> {
        let mut requests = self.requests.take();
        let (own, keys) = (format!("/{}/", self.space.name), format!("/broker.{}.", self.space.name));
        requests.retain(|(_, url)| url.contains(&own) || url.contains(&keys) || !url.contains("/namespaces/"));
        requests
    }
}

/// Without the watches, which begin again now and then, and the look at the cluster's keys of tokens.
fn asked(requests: &[(Method, String)]) -> Vec<(Method, String)> {
    let by_the_clock = |url: &str| ["watch=true", "/openid/v1/jwks", "/.well-known/"].iter().any(|it| url.contains(it));
    requests.iter().filter(|(_, url)| !by_the_clock(url)).cloned().collect()
}

#[tokio::test]
async fn numbers_that_change_are_no_requests() {
    let _turn = turn().await;
    let busy = Busy::start(3, 60).await;
    let window = Duration::from_secs(6);
    let requests = asked(&busy.during(window).await);
    assert_eq!(requests, [] as [(Method, String); 0], "only numbers changed, and were written just now");
    busy.operator.stop().await;
}

/// A broker, its topics and its pod: nothing of them is written, and nothing is read, while nothing happens.
#[tokio::test]
async fn a_broker_with_two_topics_at_rest_writes_nothing() {
    let _turn = turn().await;
    let busy = Busy::at_rest().await;
    let requests = asked(&busy.during(Duration::from_secs(15)).await);
    assert_eq!(requests, [] as [(Method, String); 0]);
    busy.operator.stop().await;
}

/// What is as an operator applied it shows that in its metadata. Of Secrets only those of the broker are read.
#[tokio::test]
async fn a_successor_reads_no_child_that_nobody_touched() {
    let _turn = turn().await;
    let mut busy = Busy::start(3, 0).await;
    busy.operator.stop().await;
    busy.requests.take();
    busy.operator = Operator::start_with_brokers(busy.requests.client(), busy.places.addresses());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let requests = busy.take();
    let kinds = ["services", "configmaps", "networkpolicies", "deployments", "statefulsets", "poddisruptionbudgets"];
    let is_child = |url: &str| kinds.iter().any(|kind| url.contains(&format!("/{}/{kind}/", busy.space.name)));
    let is_credentials = |url: &str| url.contains("/secrets/") && url.contains("-identity");
    let read: Vec<_> = requests.iter().filter(|(_, url)| is_child(url) || is_credentials(url)).collect();
    assert_eq!(read, [] as [&(Method, String); 0]);
    assert!(requests.iter().any(|(_, url)| url.contains("/secrets/")), "it has reconciled: {requests:?}");
    assert_eq!(writes(&requests), [] as [&(Method, String); 0]);
    busy.operator.stop().await;
    // What is wanted here is an empty list, and somebody fills it.
    let policies: Api<NetworkPolicy> = busy.space.api();
    let policy = names::handler("h0");
    let rules = async || policies.get(&policy).await.unwrap().spec.unwrap().ingress.unwrap_or_default().len();
    assert_eq!(rules().await, 0);
    busy.space.merge::<NetworkPolicy>(&policy, json!({"spec": {"ingress": [{}]}})).await;
    let operator = Operator::start_with_brokers(busy.requests.client(), busy.places.addresses());
    eventually("it lets no one in", async || (rules().await == 0).then_some(())).await;
    operator.stop().await;
}

/// Figures: `cargo test -p tidegate-operator --test api -- --ignored --nocapture api_requests_of`.
#[tokio::test]
#[ignore = "minutes: prints figures"]
async fn api_requests_of_a_busy_topic() {
    let _turn = turn().await;
    for (handlers, bound) in [(1, 5.0), (11, 8.0), (50, 15.0)] {
        let busy = Busy::start(handlers, 60).await;
        let begun = Instant::now();
        let requests = busy.during(Duration::from_secs(135)).await;
        let per_second = |requests: usize| {
            let seconds = begun.elapsed().as_secs_f64();
            f64::from(u32::try_from(requests).unwrap()) / seconds
        };
        let (all, written) = (per_second(requests.len()), per_second(writes(&requests).len()));
        eprintln!("{handlers} handlers at 60 events/s: {all:.2} requests/s, {written:.2} of them writes");
        assert!(all <= bound, "{all} > {bound}");
        busy.operator.stop().await;
    }
}

/// Figures, as above.
#[tokio::test]
#[ignore = "minutes: prints figures"]
async fn api_requests_of_resources_at_rest() {
    let _turn = turn().await;
    let (space, places, requests) = (Space::new("rest").await, Places::default(), Count::default());
    let _broker = two_topics(&space, &places).await;
    let operator = Operator::start_with_brokers(requests.client(), places.addresses());
    until_ready(&space, "orders").await;
    until_ready(&space, "invoices").await;
    for number in 0..99 {
        space.create::<EventHandler>(handler(&format!("h{number}"), spec(json!({"replicas": 0})))).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    requests.take();
    // The broker is looked at once in ten minutes.
    let mut found = Vec::new();
    for minute in 0..11 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let requests = requests.take();
        eprintln!("minute {minute}: {} requests, writes: {:?}", requests.len(), writes(&requests));
        found.extend(requests);
    }
    let per_second = f64::from(u32::try_from(found.len()).unwrap()) / 660.0;
    eprintln!("102 resources at rest: {per_second:.2} requests/s, {} writes", writes(&found).len());
    assert!(per_second <= 0.3 && writes(&found).is_empty());
    operator.stop().await;
}
