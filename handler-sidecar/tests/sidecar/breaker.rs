//! A handler that fails as a whole, in whatever way, costs no event its attempts; an event that always fails is found
//! all the same.
//!
//! `TIDEGATE_OUTAGE_SECONDS` is how long an outage lasts (2; the full length is 40).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use tidegate_broker_client::contract::{Order, Retry, Sidecar};
use tidegate_broker_client::layout;
use tidegate_broker_client::statuses::StatusRules;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep};

use crate::support::{
    Container, HANDLER, Hostile, Misdeed, Running, all_settled, all_settled_by, config, dead_letters, eventually,
    header, publish_all, store,
};

const ACK_WAIT: Duration = Duration::from_secs(10);
/// An event that always fails.
const POISON: &str = "poison";

/// How long the handler is down. An event's attempts last for 0.3 s.
fn outage() -> Duration {
    let seconds = std::env::var("TIDEGATE_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// Whether the handler is down.
#[derive(Clone, Default)]
struct Down(Arc<AtomicBool>);

impl Down {
    fn begins() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn ends(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// One that is down at first, and answers so; and never likes the poison.
async fn failing_so(down: &Down, answer: impl Fn() -> (u16, Duration) + Send + Sync + 'static) -> Container {
    let down = down.clone();
    Container::answering(move |request| match (down.is_so(), request.id() == POISON) {
        (true, _) => answer(),
        (false, true) => (500, Duration::ZERO),
        (false, false) => (204, Duration::ZERO),
    })
    .await
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|id| id.to_string()).collect()
}

fn handled(container: &Container) -> BTreeSet<String> {
    container.ids().into_iter().collect()
}

/// An outage with a poison event among the others: nothing is lost but that, and it has the attempts that it may have.
async fn costs_only_the_poison(answer: impl Fn() -> (u16, Duration) + Send + Sync + 'static) {
    let (broker, down) = (TestBroker::start().await, Down::begins());
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = failing_so(&down, answer).await;
    let mut all = ids(20);
    all.push(POISON.into());
    all.extend(ids(60).split_off(20));
    publish_all(&broker, all.clone()).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.timeout = Duration::from_millis(300);
    let _sidecar = Running::ready(config).await;
    sleep(outage()).await;
    let requests = container.count();
    down.ends();
    all_settled(&broker).await;
    assert_eq!(handled(&container), all.into_iter().collect());
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.iter().map(|letter| header(letter, "ce-id")).collect::<Vec<_>>(), [POISON]);
    assert_eq!(header(&letters[0], "Tidegate-Attempts"), "3");
    let history: Vec<Value> = serde_json::from_str(header(&letters[0], "Tidegate-Attempt-History")).unwrap();
    let in_outage = history.iter().filter(|failed| failed["outage"] == true).count();
    assert_eq!(history.len() - in_outage, 3);
    let said = header(&letters[0], "Tidegate-Outage-Attempts");
    assert_eq!(said, if in_outage == 0 { String::new() } else { in_outage.to_string() });
    assert!(requests < 150, "{requests} requests while it was down");
}

#[tokio::test]
async fn an_outage_that_is_answered_500() {
    costs_only_the_poison(|| (500, Duration::ZERO)).await;
}

/// With `Retry-After: 1`.
#[tokio::test]
async fn an_outage_that_is_answered_503() {
    costs_only_the_poison(|| (503, Duration::ZERO)).await;
}

#[tokio::test]
async fn an_outage_in_which_nothing_is_answered() {
    costs_only_the_poison(|| (204, Duration::from_secs(60))).await;
}

#[tokio::test]
async fn an_outage_in_which_connections_break() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Hostile::start(Misdeed::Resets).await;
    publish_all(&broker, ids(40)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    sleep(outage()).await;
    container.behave(Misdeed::Answers("HTTP/1.1 204 No Content\r\n\r\n"));
    all_settled(&broker).await;
    assert!(dead_letters(&broker).await.is_empty());
}

#[tokio::test]
async fn an_outage_of_a_quiet_handler() {
    let (broker, down) = (TestBroker::start().await, Down::begins());
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = failing_so(&down, || (500, Duration::ZERO)).await;
    publish_all(&broker, ids(3)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    sleep(outage()).await;
    down.ends();
    all_settled(&broker).await;
    assert!(dead_letters(&broker).await.is_empty());
}

async fn ordered(broker: &TestBroker, port: u16) -> Sidecar {
    let order = Order::Key { lanes: 1 };
    let identity = broker.handler_with(crate::support::consumers_of(order, ACK_WAIT)).await;
    let mut config = config(broker, identity, port, ACK_WAIT);
    config.delivery.order = order;
    config
}

async fn publish_keyed(broker: &TestBroker, key: &str, count: usize) {
    for id in 0..count {
        let event = Event::builder(&format!("{key}-{id}"), "/sensors/1", "temperature").attribute("partitionkey", key);
        store(broker, &event.build().unwrap(), &[]).await;
    }
}

/// The events of one key are tried one at a time, so the first of them is alone: its attempts are all there is, and
/// last longer than the outage.
#[tokio::test]
async fn an_outage_of_a_hot_key() {
    let (broker, down) = (TestBroker::start().await, Down::begins());
    let container = failing_so(&down, || (500, Duration::ZERO)).await;
    let mut config = ordered(&broker, container.port).await;
    let wait = outage() / 4;
    config.delivery.retry = Retry { max_attempts: 100, initial: wait, max: wait, ..config.delivery.retry };
    let _sidecar = Running::ready(config).await;
    publish_keyed(&broker, "a", 20).await;
    sleep(outage()).await;
    down.ends();
    all_settled_by(&broker, &layout::lane_consumer(HANDLER, 0)).await;
    assert!(dead_letters(&broker).await.is_empty());
    let mut seen = container.ids();
    seen.dedup();
    assert_eq!(seen, (0..20).map(|id| format!("a-{id}")).collect::<Vec<_>>());
}

/// Where they do not, the first one is lost, and none of those behind it.
#[tokio::test]
async fn an_outage_of_a_hot_key_that_is_longer_than_the_attempts_of_an_event() {
    let (broker, down) = (TestBroker::start().await, Down::begins());
    let container = failing_so(&down, || (500, Duration::ZERO)).await;
    let _sidecar = Running::ready(ordered(&broker, container.port).await).await;
    publish_keyed(&broker, "a", 20).await;
    eventually("the first has used up its attempts", async || !dead_letters(&broker).await.is_empty()).await;
    eventually("the second is tried far more often", async || container.count() > 12).await;
    down.ends();
    all_settled_by(&broker, &layout::lane_consumer(HANDLER, 0)).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.iter().map(|letter| header(letter, "ce-id")).collect::<Vec<_>>(), ["a-0"]);
}

fn throttled(seconds: &str) -> (Response, Duration) {
    let answer = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header("retry-after", seconds);
    (answer.body(Body::empty()).unwrap(), Duration::ZERO)
}

/// A handler that asks for a pause gets one: from the first answer on, one event at a time tries it.
#[tokio::test]
async fn a_handler_that_asks_for_a_pause_is_left_alone() {
    const ASKED: Duration = Duration::from_secs(2);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let begun = Instant::now();
    let first = Arc::new(std::sync::OnceLock::<Instant>::new());
    let container = Container::responding({
        let first = first.clone();
        move |_| match first.get_or_init(Instant::now).elapsed() < ASKED {
            true => throttled("2"),
            false => (Response::builder().status(204).body(Body::empty()).unwrap(), Duration::ZERO),
        }
    })
    .await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.concurrency = 4;
    let _sidecar = Running::ready(config).await;
    publish_all(&broker, ids(200)).await;
    eventually("it is asked", async || first.get().is_some()).await;
    all_settled(&broker).await;
    let first = *first.get().unwrap();
    let received = container.received();
    let meanwhile = received.iter().filter(|request| request.at < first + ASKED).count();
    // Trials: ten within 0.2 s, and each following pause is a tenth longer.
    assert!(meanwhile < 45, "{meanwhile} requests in the first {ASKED:?}");
    let again = received.iter().filter(|request| request.header("ce-tidegateattempt") != "1");
    for request in again {
        assert!(request.at >= first + ASKED - Duration::from_millis(20), "{:?}", request.at - begun);
    }
    assert!(dead_letters(&broker).await.is_empty());
}

/// Events that are throttled each by itself hold up no others: neither the window of the consumer, of which the shelf
/// keeps them, nor the breaker. Without either the good ones wait for two minutes.
#[tokio::test]
async fn throttled_events_hold_up_no_others() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::responding(|request| match request.id().starts_with("busy") {
        true => throttled("120"),
        false => (Response::builder().status(204).body(Body::empty()).unwrap(), Duration::ZERO),
    })
    .await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish_all(&broker, (0..40).map(|id| format!("busy-{id}"))).await;
    let begun = Instant::now();
    publish_all(&broker, ids(1000)).await;
    let published = Instant::now();
    let good = || container.received().into_iter().filter(|request| !request.id().starts_with("busy"));
    eventually("the good ones are handled", async || good().count() == 1000).await;
    let (first, last) = (good().next().unwrap().at, good().last().unwrap().at);
    eprintln!("the first {:?} after the first publish, the last {:?} after the last", first - begun, last - published);
}

/// A status that is final usually is retried where the policy says so, and such an outage is one like any other.
#[tokio::test]
async fn what_is_retried_is_up_to_the_policy() {
    let (broker, down) = (TestBroker::start().await, Down::begins());
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = failing_so(&down, || (404, Duration::ZERO)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    let [retried, final_] = ["404", "5xx"].map(|status| vec![status.parse().unwrap()]);
    config.delivery.retry.statuses = StatusRules { retried, final_ };
    publish_all(&broker, ids(20)).await;
    let _sidecar = Running::ready(config).await;
    sleep(Duration::from_secs(1)).await;
    down.ends();
    all_settled(&broker).await;
    assert!(dead_letters(&broker).await.is_empty());
    publish_all(&broker, [POISON.to_owned()]).await;
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(header(&letters[0], "Tidegate-Reason"), "refused-by-handler");
    assert_eq!(header(&letters[0], "Tidegate-Attempts"), "1");
}
