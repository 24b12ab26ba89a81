//! What the integration tests share: a broker, a sidecar in this process, and a user's container that keeps a
//! ledger of what it got.

#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)] // each test file uses a part of it; helpers may panic

pub mod container;
mod hostile;
pub mod ingress;
mod process;
pub mod relocation;

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, message::StreamMessage};
use futures::StreamExt as _;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_client::contract::{
    Delivery, Filter, Format, OnExhausted, Order, Relocation, Retry, Routing, Sidecar,
};
use tidegate_broker_client::probes::Probes;
use tidegate_broker_client::statuses::StatusRules;
use tidegate_broker_client::{layout, message_id, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub use container::{Container, Hold};
pub use hostile::{Hostile, Misdeed};
pub use process::{PROGRAM, Process};
pub use tidegate_test_broker::{eventually, free_port};

pub const HANDLER: &str = "billing";
const CONCURRENCY: u16 = 16;

/// A configuration with short times.
pub fn config(broker: &TestBroker, identity: PathBuf, port: u16, ack_wait: Duration) -> Sidecar {
    Sidecar {
        namespace: "shop".into(),
        topic: "orders".into(),
        handler: HANDLER.into(),
        handler_uid: format!("uid-{HANDLER}"),
        routing: Routing::Queued,
        servers: broker.servers(),
        identity,
        admin_port: free_port(),
        resume_after: Duration::from_secs(60),
        probes: Probes::default(),
        filter: Filter::default(),
        dead_letter: None,
        reply: None,
        delivery: Delivery {
            port,
            port_source: Default::default(),
            path: "/events".into(),
            format: Format::Binary,
            order: Order::None,
            rate: None,
            concurrency: CONCURRENCY,
            timeout: Duration::from_secs(30),
            retry: Retry {
                max_attempts: 3,
                initial: Duration::from_millis(50),
                max: Duration::from_millis(200),
                factor: 2.0,
                jitter: 0.2,
                statuses: StatusRules::default(),
            },
            on_exhausted: OnExhausted::DeadLetter,
            expiry: None,
        },
        ack_wait,
        relocation: Relocation::default(),
    }
}

/// What the operator makes of a handler with one pod and the delivery of [`config`], but for the wait.
pub fn consumers_of(order: Order, ack_wait: Duration) -> consumers::Handler {
    consumers::Handler {
        name: HANDLER.to_owned(),
        uid: format!("uid-{HANDLER}"),
        ack_wait,
        max_ack_pending: consumers::max_ack_pending(1, usize::from(CONCURRENCY)),
        types: Vec::new(),
        start: Start::Earliest,
        order,
        is_suspended: false,
        is_draining: false,
    }
}

/// A sidecar that runs in this process.
pub struct Running {
    pub config: Sidecar,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), tidegate_handler_sidecar::Error>>,
}

impl Running {
    pub fn start(config: Sidecar) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(tidegate_handler_sidecar::run(config.clone(), async {
            let _ = stopped.await;
        }));
        Self { config, stop: Some(stop), task }
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(config: Sidecar) -> Self {
        let sidecar = Self::start(config);
        eventually("the sidecar is ready", async || sidecar.get("/readyz").await == Some(200)).await;
        sidecar
    }

    /// As SIGTERM does: drains and ends.
    pub async fn terminate(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(LIMIT, &mut self.task).await.expect("it ends").unwrap().expect("without an error");
    }

    /// The status of a GET at its own listener.
    pub async fn get(&self, path: &str) -> Option<u16> {
        get(self.config.admin_port, path).await
    }

    pub async fn drain(&self) -> Option<u16> {
        self.get("/drain").await
    }
}

/// The status of a GET at this port.
pub async fn get(port: u16, path: &str) -> Option<u16> {
    response(port, path).await?.split(' ').nth(1)?.parse().ok()
}

/// The whole answer to a GET at this port.
pub async fn response(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    Some(response)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Stores an event as the ingress does.
pub async fn publish(broker: &TestBroker, id: &str) -> u64 {
    publish_with(broker, id, &[]).await
}

/// The same with further headers.
pub async fn publish_with(broker: &TestBroker, id: &str, extra: &[(&str, &str)]) -> u64 {
    let event = Event::builder(id, "/sensors/1", "temperature")
        .attribute("datacontenttype", "application/json")
        .data(format!(r#"{{"id":"{id}"}}"#))
        .build()
        .unwrap();
    store(broker, &event, extra).await
}

/// Stores any event.
pub async fn store(broker: &TestBroker, event: &Event, extra: &[(&str, &str)]) -> u64 {
    store_by(&broker.operator(), event, extra).await.unwrap()
}

/// Stores any event by this client, unless the broker does not confirm it.
pub async fn store_by(client: &async_nats::Client, event: &Event, extra: &[(&str, &str)]) -> Option<u64> {
    let (mut headers, payload) = peer::encode(event);
    headers.insert("Nats-Msg-Id", message_id::of_content(event));
    for (name, value) in extra {
        headers.insert(*name, *value);
    }
    let subject = layout::event_subject(layout::partition(event.id()), event.event_type());
    let stream = tidegate_test_broker::jetstream(client.clone());
    let sent = stream.publish_with_headers(subject, headers, payload).await.ok()?;
    Some(sent.await.ok()?.sequence)
}

/// Stores many.
pub async fn publish_all(broker: &TestBroker, ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let ids: Vec<_> = ids.into_iter().collect();
    for chunk in ids.chunks(64) {
        futures::future::join_all(chunk.iter().map(|id| publish(broker, id))).await;
    }
    ids
}

/// The dead letters, oldest first.
pub async fn dead_letters(broker: &TestBroker) -> Vec<StreamMessage> {
    let context = broker.jetstream();
    let stream = context.get_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let mut letters = Vec::new();
    for sequence in 1..=last {
        letters.push(stream.get_raw_message(sequence).await.unwrap());
    }
    letters
}

/// A header of a dead letter.
pub fn header<'a>(letter: &'a StreamMessage, name: &str) -> &'a str {
    letter.headers.get(name).map_or("", |value| value.as_str())
}

/// The handler's consumer.
pub async fn consumer(broker: &TestBroker) -> PullConsumer {
    consumer_named(broker, HANDLER).await
}

/// This consumer.
pub async fn consumer_named(broker: &TestBroker, name: &str) -> PullConsumer {
    broker.jetstream().get_consumer_from_stream(name, layout::EVENT_STREAM).await.unwrap()
}

/// Events delivered and not acknowledged.
pub async fn in_flight(broker: &TestBroker) -> usize {
    consumer(broker).await.cached_info().num_ack_pending
}

/// How many events wait on the handler's shelf.
pub async fn shelved(broker: &TestBroker) -> u64 {
    let context = broker.jetstream();
    context.get_stream(layout::retry_stream(HANDLER)).await.unwrap().cached_info().state.messages
}

/// How many events were ever put there.
pub async fn ever_shelved(broker: &TestBroker) -> u64 {
    let context = broker.jetstream();
    context.get_stream(layout::retry_stream(HANDLER)).await.unwrap().cached_info().state.last_sequence
}

/// As a replica does that is drained with the event in flight.
pub async fn take_and_give_back(broker: &TestBroker) {
    give_back_one_of(broker, &consumer(broker).await).await;
}

/// The same with an event of this consumer.
pub async fn give_back_one_of(broker: &TestBroker, consumer: &PullConsumer) {
    let mut messages = consumer.batch().max_messages(1).expires(Duration::from_secs(50)).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    message.ack_with(AckKind::Nak(None)).await.unwrap();
    broker.operator().flush().await.unwrap();
}

/// Waits until the consumer has nothing left.
pub async fn all_settled(broker: &TestBroker) {
    all_settled_by(broker, HANDLER).await;
}

/// Waits until this consumer has nothing left.
pub async fn all_settled_by(broker: &TestBroker, name: &str) {
    let begun = Instant::now();
    loop {
        let stream = broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
        let consumer = consumer_named(broker, name).await;
        let info = consumer.cached_info();
        // The consumer hears of an event a moment after its publisher: the counts alone may be too early.
        let delivered = info.delivered.stream_sequence >= stream.cached_info().state.last_sequence;
        if delivered && info.num_pending == 0 && info.num_ack_pending == 0 {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not settled: {info:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
