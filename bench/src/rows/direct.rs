//! A Direct topic's way of an event, from its publish to the handler, beside ZeroMQ's from publisher to subscriber:
//! on loopback TCP, one event at a time, with the same content.
//!
//! ZeroMQ is one connection, without a server, encryption or rights. A Direct topic has all of them, and a request to
//! the handler at its end; what the broker alone takes is told beside it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_test_broker::{TestBroker, topic_id};
use tokio::time::{sleep, timeout};
use zeromq::{PubSocket, Socket as _, SocketRecv as _, SocketSend as _, SubSocket};

use crate::bench::Bench;
use crate::events::{self, Shape};
use crate::figures::Group;
use crate::handler::{Answer, Handler};
use crate::meter::Meter;
use crate::stopwatch::{Stopwatch, milliseconds};
use crate::{CONCURRENCY, LIMIT, process, raw, report};

/// Events of a round, of each.
const EVENTS: u64 = 1_000;
const EVERY: Duration = Duration::from_millis(2);
/// After this, everybody knows of a subscription, and nothing is under way.
const SETTLED: Duration = Duration::from_millis(200);

const SIDECAR: &str = "direct-sidecar";

/// A Direct topic, with one handler.
struct Topic<'a> {
    bench: &'a Bench,
    server: TestBroker,
    ingress: async_nats::Client,
    subjects: TopicSubjects,
    identity: PathBuf,
    events: u64,
}

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let topic = Topic::start(bench).await?;
    let note =
        format!("{EVENTS} events of 256 bytes a round, one every {EVERY:?} in an open loop, without the first tenth");
    report::note(&format!("direct: {note}"));
    let (mut to_zeromq, mut to_nats) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let zeromq = zeromq(topic.events).await?;
        let broker = topic.subscriber().await?;
        let whole = topic.handler().await?;
        report::note(&format!(
            "  ms p50: ZeroMQ {zeromq:.3}, core NATS publish to subscribe {broker:.3}, publish to handler {whole:.3}"
        ));
        to_zeromq.push(whole / zeromq);
        to_nats.push(whole / broker);
    }
    let mut group = Group { notes: vec![note], ..Group::default() };
    group.row("direct-vs-zeromq-ratio", &to_zeromq, "<= 3")?;
    group.row("direct-vs-core-nats-ratio", &to_nats, "reported")?;
    Ok(group)
}

impl<'a> Topic<'a> {
    async fn start(bench: &'a Bench) -> anyhow::Result<Self> {
        let server = TestBroker::start_direct().await;
        let identity = server.direct_handler(SIDECAR).await;
        let ingress = raw::client(&server.servers(), server.ingress_client_dir()).await?;
        let subjects = TopicSubjects::new(&topic_id(), Routing::Direct);
        Ok(Self { bench, server, ingress, subjects, identity, events: bench.scaled(EVENTS) })
    }

    /// From publish to the handler, through the sidecar.
    async fn handler(&self) -> anyhow::Result<f64> {
        let stopwatch = Stopwatch::new(events::numbers(self.events), EVERY);
        let (meter, arrivals) = (Meter::new(self.events), stopwatch.clone());
        let arrived = move |number, _| {
            arrivals.arrived(number);
            Answer::default()
        };
        let handler = Handler::start(&meter, Arc::new(arrived))?;
        let mut config = process::sidecar_config(&self.server, SIDECAR, &self.identity, handler.port, CONCURRENCY);
        config.routing = Routing::Direct;
        let mut process = self.bench.programs.sidecar(&config).await?;
        self.publish(&stopwatch).await?;
        meter.finished(|| process.runs()).await?;
        p50(&stopwatch)
    }

    /// From publish to a raw client with the handler's rights.
    async fn subscriber(&self) -> anyhow::Result<f64> {
        let stopwatch = Stopwatch::new(events::numbers(self.events), EVERY);
        let (servers, identity, taken) = (self.server.servers(), self.identity.clone(), stopwatch.clone());
        let client = raw::on_one_thread(move || subscribe(servers, identity, taken));
        tokio::try_join!(client, self.publish(&stopwatch))?;
        p50(&stopwatch)
    }

    /// As the ingress does.
    async fn publish(&self, stopwatch: &Arc<Stopwatch>) -> anyhow::Result<()> {
        sleep(SETTLED).await;
        let send = async |number| {
            let events::Message { subject, headers, payload } = events::message(number, Shape::default())?;
            let subject = self.subjects.event(&subject);
            self.ingress.publish_with_headers(subject, headers, payload).await?;
            self.ingress.flush().await?;
            Ok(())
        };
        stopwatch.pace(send).await
    }
}

async fn subscribe(servers: Vec<String>, identity: PathBuf, stopwatch: Arc<Stopwatch>) -> anyhow::Result<()> {
    let client = raw::client(&servers, identity).await?;
    // Nothing else is allowed to the handler than to be one of its group.
    let mut messages = client.queue_subscribe(layout::EVENT_SUBJECTS, SIDECAR.to_owned()).await?;
    let work = async {
        while stopwatch.missing() > 0 {
            let message = messages.next().await.context("the subscription ended")?;
            let id = message.headers.as_ref().and_then(|all| all.get("ce-id")).map(|id| id.as_str());
            events::number(id).inspect(|number| stopwatch.arrived(*number));
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, work).await?
}

/// From publisher to subscriber.
async fn zeromq(count: u64) -> anyhow::Result<f64> {
    let stopwatch = Stopwatch::new(events::numbers(count), EVERY);
    let mut publisher = PubSocket::new();
    let address = publisher.bind("tcp://127.0.0.1:0").await?.to_string();
    let taken = stopwatch.clone();
    let subscriber = raw::on_one_thread(move || receive(address, taken));
    let publisher = async {
        sleep(SETTLED).await;
        stopwatch.pace(async |number| Ok(publisher.send(events::document(number)?.into()).await?)).await
    };
    tokio::try_join!(subscriber, publisher)?;
    p50(&stopwatch)
}

async fn receive(address: String, stopwatch: Arc<Stopwatch>) -> anyhow::Result<()> {
    let mut subscriber = SubSocket::new();
    subscriber.connect(&address).await?;
    subscriber.subscribe("").await?;
    let work = async {
        while stopwatch.missing() > 0 {
            let message = subscriber.recv().await?;
            let document = message.get(0).context("an empty message")?;
            events::numbers_in(document).iter().for_each(|number| stopwatch.arrived(*number));
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, work).await?
}

/// Milliseconds.
fn p50(stopwatch: &Stopwatch) -> anyhow::Result<f64> {
    Ok(milliseconds(&stopwatch.latencies()?, 0.5))
}
