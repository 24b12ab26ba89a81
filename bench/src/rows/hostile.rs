//! One hostile client against an ingress: what others notice of it, beside the same without it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Ingress;
use tidegate_broker_client::identity::file;
use tidegate_test_broker::topic;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::figures::{Curve, Group};
use crate::hostile::Attack;
use crate::publisher::{self, Connection, Protocol, http1};
use crate::stopwatch::{self, Stopwatch, milliseconds};
use crate::worker::Task;
use crate::{LIMIT, events, process, report};

/// Events of a round on the topic that is left alone, in an open loop.
const EVENTS: u64 = 3_000;
const EVERY: Duration = Duration::from_millis(4);
/// On the topic that is flooded there is one of another publisher for so many of these.
const BESIDE_FLOOD: u64 = 5;
/// Connections of the publishers, each from an address of its own.
const PUBLISHERS: u8 = 16;
/// A publisher gives up after this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// The attack takes some seconds until all of it is there.
const WARM_UP: Duration = Duration::from_secs(5);
const SHARES: [f64; 7] = [0.1, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999];

/// What the hostile client does in a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing.
    Calm,
    /// It attacks the ingress that is measured.
    Attacked,
    /// It attacks another ingress with a broker of its own: what sharing the cores costs without sharing an ingress.
    Elsewhere,
}

impl Turn {
    const ALL: [Self; 3] = [Self::Calm, Self::Attacked, Self::Elsewhere];

    const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Attacked => "attacked",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// What the publishers of a round noticed.
struct Round {
    /// Share of the events that were accepted: on the topic that is left alone, and on the one that is flooded.
    success: [f64; 2],
    latencies: hdrhistogram::Histogram<u64>,
}

struct World {
    config: Ingress,
    ca: PathBuf,
    connector: TlsConnector,
    flooded: TopicId,
    _process: process::Process,
    _broker: Broker,
}

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    bench.allow_connections(4096)?;
    let (world, elsewhere) = (World::start(bench).await?, World::start(bench).await?);
    let note = format!(
        "{EVENTS} events of 256 bytes a round over HTTPS, one every {EVERY:?} in an open loop, from the time it was to be \
         sent, without the first tenth, over {PUBLISHERS} connections from as many addresses; beside them one for each \
         {BESIDE_FLOOD} on the topic that is flooded. The hostile client: 300 slow bodies, 600 idle devices, 300 half \
         handshakes, and 64 connections that flood one topic, all from one address and repeated as they are turned away. \
         Relaxed, one server; both share the cores with the ingress. Elsewhere: the same attack against another ingress \
         with its own broker, so that only the cores are shared"
    );
    report::note(&format!("hostile: {note}"));
    let mut found: [Vec<Round>; 3] = Default::default();
    for round in 0..bench.rounds {
        // Each turn comes first, second and last.
        for place in 0..Turn::ALL.len() {
            let index = (round + place) % Turn::ALL.len();
            let turn = Turn::ALL[index];
            let attack = match turn {
                Turn::Calm => None,
                Turn::Attacked => Some(world.attack()),
                Turn::Elsewhere => Some(elsewhere.attack()),
            };
            let noticed = world.round(bench, attack).await?;
            let [alone, beside] = noticed.success;
            report::note(&format!(
                "  round {}: {:<9} p50 {:.3} ms, p99 {:.3} ms, accepted {alone:.4}, beside the flood {beside:.4}",
                round + 1,
                turn.name(),
                milliseconds(&noticed.latencies, 0.5),
                milliseconds(&noticed.latencies, 0.99),
            ));
            found[index].push(noticed);
        }
    }
    figures(note, &found)
}

fn figures(note: String, found: &[Vec<Round>; 3]) -> anyhow::Result<Group> {
    let mut group = Group { notes: vec![note], ..Group::default() };
    let p99 = |rounds: &[Round]| rounds.iter().map(|it| milliseconds(&it.latencies, 0.99)).collect::<Vec<_>>();
    let success = |rounds: &[Round], of: usize| rounds.iter().map(|it| it.success[of]).collect::<Vec<_>>();
    let ratio = |with: &[Round], without: &[Round]| {
        p99(with).iter().zip(p99(without)).map(|(with, without)| with / without).collect::<Vec<_>>()
    };
    let [calm, attacked, elsewhere] = found;
    group.row("hostile-other-topic-success", &success(attacked, 0), ">= 0.99")?;
    group.row("hostile-same-topic-success", &success(attacked, 1), ">= 0.99")?;
    group.row("hostile-other-topic-p99-ratio", &ratio(attacked, calm), "<= 3")?;
    group.row("hostile-cores-alone-p99-ratio", &ratio(elsewhere, calm), "reported")?;
    group.row("hostile-ingress-alone-p99-ratio", &ratio(attacked, elsewhere), "reported")?;
    group.row("hostile-calm-success", &success(calm, 0), "reported")?;
    for (turn, rounds) in Turn::ALL.into_iter().zip(found) {
        let label = turn.name();
        group.row(&format!("hostile-{label}-p99-ms"), &p99(rounds), "reported")?;
        let mut all = stopwatch::empty()?;
        rounds.iter().try_for_each(|round| all.add(&round.latencies))?;
        let points = SHARES.map(|share| (share * 100.0, milliseconds(&all, share))).to_vec();
        group.curves.push(Curve { label: label.to_owned(), points });
    }
    Ok(group)
}

impl World {
    async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let broker = Broker::start(Durability::Relaxed, 1).await;
        let flooded = TopicId::new("bench", "flooded")?;
        // However much comes, there is room.
        let settings = tidegate_broker_admin::streams::Topic { drop_oldest: true, ..topic() };
        broker.server.add_topic(&flooded, settings).await;
        let config = process::ingress_config(&broker.server, Durability::Relaxed);
        let process = bench.programs.ingress(&config).await?;
        let ca = config.identity.join(file::CA);
        let connector = publisher::connector(Protocol::Http1, &ca)?;
        Ok(Self { config, ca, connector, flooded, _process: process, _broker: broker })
    }

    fn attack(&self) -> Attack {
        Attack {
            https: self.config.https_port,
            mqtt: self.config.mqtt_port,
            ca: self.ca.clone(),
            path: format!("/{}", self.flooded),
        }
    }

    async fn round(&self, bench: &Bench, attack: Option<Attack>) -> anyhow::Result<Round> {
        let attacker = attack.map(|attack| Task::Attack(attack).spawn()).transpose()?;
        if attacker.is_some() {
            sleep(WARM_UP).await;
        }
        let round = timeout(LIMIT, self.publish(bench.scaled(EVENTS))).await.context("a round takes too long")?;
        if let Some(mut attacker) = attacker {
            attacker.runs().context("the hostile client")?;
        }
        round
    }

    async fn publish(&self, count: u64) -> anyhow::Result<Round> {
        let stopwatch = Stopwatch::new(events::numbers(count), EVERY);
        let (accepted, beside) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (waiting, next) = mpsc::unbounded_channel::<(u64, bool)>();
        let next = Arc::new(Mutex::new(next));
        let mut publishers = JoinSet::new();
        for number in 0..PUBLISHERS {
            let mut publisher = Publisher {
                from: Ipv4Addr::new(127, 0, 1, number + 1),
                port: self.config.https_port,
                connector: self.connector.clone(),
                connection: None,
            };
            let (next, flooded) = (Arc::clone(&next), format!("/{}", self.flooded));
            let (stopwatch, accepted, beside) = (Arc::clone(&stopwatch), Arc::clone(&accepted), Arc::clone(&beside));
            publishers.spawn(async move {
                loop {
                    let Some((number, is_flooded)) = next.lock().await.recv().await else { return anyhow::Ok(()) };
                    let request = http1::binary_to(if is_flooded { &flooded } else { "/" }, number)?;
                    let is_accepted = publisher.publish(&request).await;
                    let counted = if is_flooded { &beside } else { &accepted };
                    counted.fetch_add(u64::from(is_accepted), Ordering::Relaxed);
                    if !is_flooded {
                        stopwatch.arrived(number);
                    }
                }
            });
        }
        let mut extra = events::numbers(count.div_ceil(BESIDE_FLOOD));
        let beside_count = extra.end - extra.start;
        let mut sent = 0_u64;
        let send = async |number| {
            waiting.send((number, false))?;
            if sent.is_multiple_of(BESIDE_FLOOD)
                && let Some(number) = extra.next()
            {
                waiting.send((number, true))?;
            }
            sent += 1;
            anyhow::Ok(())
        };
        stopwatch.pace(send).await?;
        drop(waiting);
        while let Some(ended) = publishers.join_next().await {
            ended??;
        }
        let share = |accepted: &AtomicU64, count: u64| accepted.load(Ordering::Relaxed) as f64 / count as f64;
        Ok(Round {
            success: [share(&accepted, count), share(&beside, beside_count)],
            latencies: stopwatch.latencies()?,
        })
    }
}

/// One of the others: a connection that is kept, and made again when it ends.
struct Publisher {
    from: Ipv4Addr,
    port: u16,
    connector: TlsConnector,
    connection: Option<(Connection, BytesMut)>,
}

impl Publisher {
    /// Whether the event was accepted, at the first attempt and in time.
    async fn publish(&mut self, request: &Bytes) -> bool {
        let status = timeout(PATIENCE, self.exchange(request)).await;
        if !matches!(status, Ok(Ok(_))) {
            self.connection = None;
        }
        matches!(status, Ok(Ok(202)))
    }

    async fn exchange(&mut self, request: &Bytes) -> anyhow::Result<u16> {
        if self.connection.is_none() {
            let stream = publisher::connect_from(self.from, &self.connector, self.port).await?;
            self.connection = Some((stream, BytesMut::new()));
        }
        let (stream, input) = self.connection.as_mut().context("connected")?;
        http1::exchange(stream, input, request).await
    }
}
