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
use tidegate_broker_client::{connect, identity, layout};
use tidegate_test_broker::TestBroker;
use tokio::time::{sleep, timeout};
use zeromq::{PubSocket, Socket as _, SocketRecv as _, SocketSend as _, SubSocket};

use crate::handler::Handler;
use crate::stats::quantile;
use crate::stopwatch::Stopwatch;
use crate::{CONCURRENCY, LIMIT, ROUNDS, events, process, raw, report};

/// Events of a round, of each.
const EVENTS: u64 = 300;
const EVERY: Duration = Duration::from_millis(3);
/// After this, everybody knows of a subscription, and nothing is under way.
const SETTLED: Duration = Duration::from_millis(200);

const SIDECAR: &str = "direct-sidecar";

/// A Direct topic, with one handler.
struct Topic {
    server: TestBroker,
    ingress: async_nats::Client,
    identity: PathBuf,
}

pub async fn measure() -> anyhow::Result<()> {
    let topic = Topic::start().await?;
    report::note(&format!("direct: {EVENTS} events of 256 bytes a round, one every {EVERY:?}"));
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let zeromq = zeromq().await?;
        let broker = topic.subscriber().await?;
        let whole = topic.handler().await?;
        report::note(&format!(
            "  ms p50: ZeroMQ {zeromq:.3}, core NATS publish to subscribe {broker:.3}, publish to handler {whole:.3}"
        ));
        ratios.push(whole / zeromq);
    }
    report::row("direct-vs-zeromq-ratio", &ratios, "<= 3")?;
    Ok(())
}

impl Topic {
    async fn start() -> anyhow::Result<Self> {
        let server = TestBroker::start_direct().await;
        let identity = server.direct_handler(SIDECAR).await;
        let source = identity::folder(server.ingress_identity_dir());
        let ingress = connect::connect("bench", &server.servers(), source).await?;
        Ok(Self { server, ingress, identity })
    }

    /// From publish to the handler, through the sidecar.
    async fn handler(&self) -> anyhow::Result<f64> {
        let stopwatch = Stopwatch::new(events::numbers(EVENTS));
        let handler = Handler::timing(&stopwatch)?;
        let mut config = process::sidecar_config(&self.server, SIDECAR, &self.identity, handler.port, CONCURRENCY)?;
        config.routing = Routing::Direct;
        let _process = process::start_sidecar(&config).await?;
        self.publish(&stopwatch).await?;
        p50(&stopwatch)
    }

    /// From publish to a raw client with the handler's rights.
    async fn subscriber(&self) -> anyhow::Result<f64> {
        let stopwatch = Stopwatch::new(events::numbers(EVENTS));
        let (servers, identity, taken) = (self.server.servers(), self.identity.clone(), stopwatch.clone());
        let client = raw::on_one_thread(move || subscribe(servers, identity, taken));
        tokio::try_join!(client, self.publish(&stopwatch))?;
        p50(&stopwatch)
    }

    /// As the ingress does.
    async fn publish(&self, stopwatch: &Stopwatch) -> anyhow::Result<()> {
        sleep(SETTLED).await;
        let send = async |number| {
            let events::Message { subject, headers, payload } = events::message(number)?;
            self.ingress.publish_with_headers(subject, headers, payload).await?;
            self.ingress.flush().await?;
            Ok(())
        };
        stopwatch.pace(EVERY, send).await?;
        sleep(SETTLED).await;
        Ok(())
    }
}

async fn subscribe(servers: Vec<String>, identity: PathBuf, stopwatch: Arc<Stopwatch>) -> anyhow::Result<()> {
    let client = connect::connect("bench", &servers, identity::folder(identity)).await?;
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
async fn zeromq() -> anyhow::Result<f64> {
    let stopwatch = Stopwatch::new(events::numbers(EVENTS));
    let mut publisher = PubSocket::new();
    let address = publisher.bind("tcp://127.0.0.1:0").await?.to_string();
    let taken = stopwatch.clone();
    let subscriber = raw::on_one_thread(move || receive(address, taken));
    let publisher = async {
        sleep(SETTLED).await;
        stopwatch.pace(EVERY, async |number| Ok(publisher.send(events::document(number)?.into()).await?)).await
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
            events::number_in(document).inspect(|number| stopwatch.arrived(*number));
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, work).await?
}

/// Milliseconds.
fn p50(stopwatch: &Stopwatch) -> anyhow::Result<f64> {
    Ok(quantile(&stopwatch.milliseconds()?, 0.5))
}
