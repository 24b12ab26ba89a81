//! Accepted events through the ingress: what each protocol costs, beside a raw JetStream publish of the same events,
//! and what it is like to wait for the disk.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use tidegate_broker_client::contract::{self, Ingress};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::layout;
use tidegate_publisher_auth::issuer::Issuer;
use tidegate_test_broker::topic_id;
use time::OffsetDateTime;

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::contender::Rounds;
use crate::events;
use crate::figures::Group;
use crate::meter::{Meter, Work};
use crate::process::{self, Process};
use crate::publisher::{self, Protocol, Publishing};
use crate::worker::{self, Task};
use crate::{CONCURRENCY, raw, report};

/// Events of a round, of each.
const EVENTS: u64 = 10_000;
/// Events of a round in batches.
const BATCHED: u64 = 40_000;
const BATCH: u64 = 100;
/// Requests at a time on a connection over HTTP/2.
const STREAMS: usize = 16;

/// A broker with an ingress.
struct Topic {
    broker: Broker,
    config: Ingress,
    process: Process,
    issuer: Issuer,
}

/// One way to publish.
struct Way {
    label: &'static str,
    durability: Durability,
    protocol: Protocol,
    connections: usize,
    events: u64,
    tokens: Tokens,
}

/// What a publisher proves itself by.
#[derive(Clone, Copy)]
enum Tokens {
    /// Nothing: the topic takes events of everybody.
    None,
    /// One token for all events, as a publisher does.
    One,
    /// Another one with each event: each is verified.
    Each,
}

const WAYS: [Way; 9] = [
    way("http1", Durability::Relaxed, Protocol::Http1, 64, EVENTS),
    way("http2", Durability::Relaxed, Protocol::Http2(STREAMS), 64 / STREAMS, EVENTS),
    way("batches", Durability::Relaxed, Protocol::Http1Batch(BATCH), 64, BATCHED),
    way("mqtt", Durability::Relaxed, Protocol::Mqtt, 64, EVENTS),
    way("http1-256", Durability::Relaxed, Protocol::Http1, 256, EVENTS),
    Way { tokens: Tokens::One, ..way("http1-token", Durability::Relaxed, Protocol::Http1, 64, EVENTS) },
    Way { tokens: Tokens::Each, ..way("http1-new-tokens", Durability::Relaxed, Protocol::Http1, 64, EVENTS) },
    way("http1-fsync", Durability::Fsync, Protocol::Http1, 64, EVENTS),
    way("http1-256-fsync", Durability::Fsync, Protocol::Http1, 256, EVENTS),
];

const fn way(label: &'static str, durability: Durability, protocol: Protocol, connections: usize, events: u64) -> Way {
    Way { label, durability, protocol, connections, events, tokens: Tokens::None }
}

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    bench.allow_connections(2048)?;
    let relaxed = Topic::start(bench, Durability::Relaxed).await?;
    let fsync = Topic::start(bench, Durability::Fsync).await?;
    let note = format!(
        "{EVENTS} events of 256 bytes a round ({BATCHED} in batches of {BATCH}), 64 in flight where no other number is \
         said, HTTP/2 over {} connections, Relaxed where Fsync is not said; token: with one token of a ServiceAccount, as \
         a publisher sends it, new-tokens: with another one for each event (ES256); the third party is the publisher",
        64 / STREAMS
    );
    report::note(&format!("ingress: {note}"));
    let named = |label: &str| Rounds { label: label.to_owned(), works: Vec::new() };
    let mut raw = named("raw");
    let mut all: Vec<Rounds> = WAYS.iter().map(|way| named(way.label)).collect();
    for round in 0..bench.rounds {
        raw.works.push(relaxed.raw(bench).await?);
        for turn in 0..WAYS.len() {
            let index = (round + turn) % WAYS.len();
            let topic = if WAYS[index].durability == Durability::Fsync { &fsync } else { &relaxed };
            let work = topic.publish(&WAYS[index], bench).await.with_context(|| WAYS[index].label)?;
            report::note(&format!(
                "  round {}: {:<15} {:>6.0}/s, µs per event: ingress {:.1}, server {:.1}, publisher {:.1}",
                round + 1,
                WAYS[index].label,
                work.rate,
                work.program,
                work.server,
                work.counter
            ));
            all[index].works.push(work);
        }
    }
    figures(note, raw, all)
}

fn figures(note: String, raw: Rounds, mut all: Vec<Rounds>) -> anyhow::Result<Group> {
    let mut group = Group { notes: vec![note], ..Group::default() };
    if let [http1, http2, batches, mqtt, many, token, new_tokens, fsync, many_fsync] = &all[..] {
        group.row("ingress-fsync-64-ratio", &fsync.ratio(http1, |work| work.rate), ">= 0.7")?;
        group.row("ingress-fsync-256-ratio", &many_fsync.ratio(many, |work| work.rate), ">= 0.9")?;
        group.row("ingress-token-cpu-ratio", &token.ratio(http1, |work| work.program), "reported")?;
        group.row("ingress-new-tokens-cpu-ratio", &new_tokens.ratio(http1, |work| work.program), "reported")?;
        let total = |rounds: &Rounds| rounds.each(|work| work.program + work.server);
        for (ingress, target) in [(http1, "<= 0.7"), (http2, "reported"), (batches, "reported"), (mqtt, "reported")] {
            let own = ingress.each(|work| work.program);
            let ratios: Vec<f64> = own.iter().zip(total(&raw)).map(|(own, raw)| own / raw).collect();
            group.row(&format!("ingress-{}-cpu-to-raw-ratio", ingress.label), &ratios, target)?;
        }
    }
    all.insert(0, raw);
    group.parties("ingress", &all)?;
    Ok(group)
}

impl Topic {
    async fn start(bench: &Bench, durability: Durability) -> anyhow::Result<Self> {
        let broker = Broker::start(durability, 1).await;
        let config = process::ingress_config(&broker.server, durability);
        let issuer = Issuer::new("https://cluster", "key-1", "ES256");
        broker.server.write_file(|file| file.tokens = Some(issuer.trust()));
        let process = bench.programs.ingress(&config).await?;
        Ok(Self { broker, config, process, issuer })
    }

    /// A raw client with the ingress's rights, in a process of its own.
    async fn raw(&self, bench: &Bench) -> anyhow::Result<Work> {
        let publishing = worker::Publishing {
            servers: self.broker.server.servers(),
            identity: self.config.identity.clone(),
            server_pids: self.broker.pids(),
            numbers: events::numbers(bench.scaled(EVENTS)),
            concurrency: CONCURRENCY.into(),
        };
        Task::Publish(publishing).run().await
    }

    async fn publish(&self, way: &Way, bench: &Bench) -> anyhow::Result<Work> {
        let numbers = events::numbers(bench.scaled(way.events));
        let count = numbers.end - numbers.start;
        let port = if way.protocol == Protocol::Mqtt { self.config.mqtt_port } else { self.config.https_port };
        let ca: PathBuf = self.config.identity.join(file::CA);
        let connections = way.connections;
        let tokens = self.tokens(way.tokens, count)?;
        let publishing = Publishing { protocol: way.protocol, port, ca, connections, numbers, tokens };
        let meter = Meter::new(count);
        meter.watch(self.process.id(), &self.broker.pids())?;
        let before = self.stored().await?;
        let counting = meter.clone();
        raw::on_one_thread(move || publisher::publish(publishing, counting)).await?;
        let stored = self.stored().await? - before;
        ensure!(stored == count, "{stored} of {count} events are stored");
        meter.work()
    }

    /// So many different ones, as the cluster would issue them.
    fn tokens(&self, tokens: Tokens, events: u64) -> anyhow::Result<Vec<String>> {
        let count = match tokens {
            Tokens::None => 0,
            Tokens::One => 1,
            Tokens::Each => events,
        };
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp())?;
        let audience = contract::audience(&topic_id());
        // The signature is another one each time.
        Ok((0..count).map(|_| self.issuer.token("web", "checkout", &audience, now)).collect())
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        Ok(self.broker.stream.get_stream(layout::EVENT_STREAM).await?.cached_info().state.last_sequence)
    }
}
