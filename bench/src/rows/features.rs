//! What a handler's wishes cost, each beside a sidecar of which nothing is asked.
//!
//! All of them get the same events in turn. The rate that is allowed is far above the one that is reached, and the
//! filters let every event through: what is measured is what it costs to look.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate_broker_client::contract::{Filter, Format, Order, Rate, Retry, Sidecar, TopicAddress};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::message_id::TopicKey;
use tidegate_broker_client::statuses::StatusRules;
use tidegate_test_broker::topic_id;

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::contender::{Contender, Load, compare};
use crate::events::{self, Shape};
use crate::figures::Group;
use crate::handler::{Answer, Script};
use crate::process::{self, Process};
use crate::{CONCURRENCY, report};

/// Events of a round. Each has a key of its own.
const EVENTS: u64 = 10_000;
const LANES: u16 = 8;
/// One event in this many fails at its first attempt.
const FAILING: u64 = 100;
const BATCH: Format = Format::Batch { max_events: 32, max_wait: Duration::from_millis(5) };
const KEYED: Order = Order::Key { lanes: LANES };

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let broker = Broker::default().await;
    let replies = Replies::start(bench).await?;
    let contenders = contenders(bench, &broker, &replies).await?;
    let note = format!("{EVENTS} events of 256 bytes a round, {CONCURRENCY} in flight, {LANES} lanes, batches of 32");
    report::note(&format!("features: {note}"));
    let load = Load { events: EVENTS, shape: Shape::default(), rounds: bench.rounds };
    let all = compare(bench, &broker, &contenders, load).await?;
    let mut group = Group { notes: vec![note], ..Group::default() };
    if let Some((plain, others)) = all.split_first() {
        for other in others {
            let (name, target) = match other.label.as_str() {
                "ordered" => ("ordered-throughput-ratio".to_owned(), ">= 0.85"),
                "everything" => ("features-on-ratio".to_owned(), ">= 0.90"),
                label => (format!("feature-{label}-rate-ratio"), "reported"),
            };
            group.row(&name, &other.ratio(plain, |work| work.rate), target)?;
            let cpu = format!("feature-{}-cpu-ratio", other.label);
            group.row(&cpu, &other.ratio(plain, |work| work.program), "reported")?;
        }
    }
    group.parties("features", &all)?;
    Ok(group)
}

async fn contenders(bench: &Bench, broker: &Broker, replies: &Replies) -> anyhow::Result<Vec<Contender>> {
    let topic_address = |handler: &str| replies.topic_address(handler);
    let reply = topic_address("reply")?;
    let mut ordered = Contender::sidecar(bench, broker, "unordered", |config| config.delivery.order = KEYED).await;
    ordered.label = "ordered".to_owned();
    ordered.handler = "ordered".to_owned();
    ordered.identity = broker.handler_of("ordered", Vec::new(), KEYED).await;
    let mut all = vec![Contender::sidecar(bench, broker, "plain", |_| {}).await];
    all.push(Contender::sidecar(bench, broker, "filter", |config| config.filter = filter()).await);
    all.push(
        Contender::sidecar(bench, broker, "structured", |config| config.delivery.format = Format::Structured).await,
    );
    all.push(Contender::sidecar(bench, broker, "batch", |config| config.delivery.format = BATCH).await);
    let replying = Contender::sidecar(bench, broker, "reply", move |config| config.reply = Some(reply.clone())).await;
    all.push(replying.with(replying_script(), CONCURRENCY));
    all.push(ordered);
    let retrying = Contender::sidecar(bench, broker, "retry", |config| config.delivery.retry = retry(50)).await;
    all.push(retrying.with(failing_script(), CONCURRENCY));
    all.push(Contender::sidecar(bench, broker, "everything", everything).await);
    Ok(all)
}

fn replying_script() -> Script {
    Arc::new(|_, _| Answer { reply: true, ..Answer::default() })
}

fn failing_script() -> Script {
    Arc::new(|number, attempt| Answer {
        unavailable: attempt == 1 && number.is_multiple_of(FAILING),
        ..Answer::default()
    })
}

fn filter() -> Filter {
    Filter {
        types: types(),
        sources: vec![events::SOURCE.to_owned(), "/sensors/2".to_owned()],
        expression: Some("event.type.startsWith('temp') && event.source != '/' && event.id != 'none'".to_owned()),
    }
}

fn retry(initial: u64) -> Retry {
    let initial = Duration::from_millis(initial);
    Retry {
        max_attempts: 10,
        initial,
        max: Duration::from_secs(60),
        factor: 1.5,
        jitter: 1.0,
        statuses: StatusRules::default(),
    }
}

/// All that can be asked for together and lets these events through, the order of keys and replies aside.
fn everything(config: &mut Sidecar) {
    config.filter = filter();
    config.delivery.format = Format::Structured;
    config.delivery.rate = Some(Rate { events: 1_000_000, per: Duration::from_secs(1) });
    config.delivery.retry = retry(100);
}

fn types() -> Vec<String> {
    vec![events::TYPE.to_owned(), "pressure.*".to_owned()]
}

/// The topic that replies go to, with an ingress. It does not wait for the disk, which is not the sidecar's cost.
struct Replies {
    broker: Broker,
    port: u16,
    keys: TempDir,
    _ingress: Process,
}

impl Replies {
    async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let broker = Broker::start(Durability::Relaxed, 1).await;
        let config = process::ingress_config(&broker.server, Durability::Relaxed);
        let ingress = bench.programs.ingress(&config).await?;
        Ok(Self { broker, port: config.https_port, keys: TempDir::new()?, _ingress: ingress })
    }

    fn topic_address(&self, handler: &str) -> anyhow::Result<TopicAddress> {
        let identity = self.broker.server.ingress_identity_dir();
        let key = TopicKey::new(&self.broker.server.authority().message_id_key(&topic_id())?);
        let message_id_key = self.keys.path().join(handler);
        std::fs::write(&message_id_key, key.handler_key_text(&format!("uid-{handler}")))?;
        let url = format!("https://localhost:{}", self.port);
        Ok(TopicAddress { topic: "replies".into(), url, ca: Path::new(&identity).join(file::CA), message_id_key })
    }
}
