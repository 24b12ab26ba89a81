//! What thousands of topics and handlers cost: memory, processor time, requests to the API server, and how long an operator
//! takes after a restart.
//!
//! Everything is real but the containers: kube-apiserver, etcd, the controllers that make pods, the scheduler, a nats-server
//! for each broker, and an operator in a process of its own. KWOK says of handlers' pods that they run. Figures:
//! `make soak`, or `TIDEGATE_SCALE=1000x250x2 cargo test -p tidegate-operator --test api -- --ignored --nocapture figures_of_scale`.

#![allow(clippy::print_stdout)] // its figures

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Resource;
use kube::api::{Api, ListParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_test_broker::TestBroker;

use crate::restarts::certificates;
use crate::support::brokers::{Places, broker_on, run_missing_pods, status};
use crate::support::operator::turn;
use crate::support::process::{self, Audit, Process, Request};
use crate::support::{PATIENCE, Space, eventually, merged, run_nodes, start_audited};
use crate::validation_handler::{handler, spec};

/// The design's size.
const FULL: Size = Size { topics: 4000, handlers: 1000, brokers: 8 };
/// What is measured where nothing is said: two sizes, from which the full one is extrapolated.
const DEFAULT: &str = "100x25x1,500x125x1";
/// Nothing that is waited for takes longer.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// Requests in flight while resources are made.
const AT_A_TIME: usize = 16;
/// How long nothing may be written before the operator counts as being at rest.
const CALM: Duration = Duration::from_secs(15);
/// How long it is watched then.
const WINDOW: Duration = Duration::from_secs(60);

/// How much there is.
#[derive(Clone, Copy, Debug)]
struct Size {
    topics: usize,
    /// Half of them have a pod, the others sleep.
    handlers: usize,
    /// Each has a namespace of its own.
    brokers: usize,
}

impl Size {
    /// `topics x handlers x brokers`, several with commas between them.
    fn all_from(text: &str) -> Vec<Self> {
        let number = |text: &str| text.trim().parse().expect("a number");
        let size = |text: &str| match text.split('x').map(number).collect::<Vec<usize>>()[..] {
            [topics, handlers, brokers] => Self { topics, handlers, brokers },
            _ => panic!("topics x handlers x brokers, and not {text}"),
        };
        text.split(',').map(size).collect()
    }
}

/// Brokers with topics and handlers.
#[derive(Default)]
struct Fleet {
    places: Places,
    brokers: Vec<(Space, TestBroker)>,
    /// The broker of each topic.
    homes: Vec<usize>,
    handlers: usize,
}

impl Fleet {
    /// Makes what is missing.
    async fn grow(&mut self, size: Size) {
        while self.brokers.len() < size.brokers {
            let (space, mut server) = (Space::new("scale").await, server().await);
            let digests = server.digests(1);
            self.places.set_digests(&space, "default", 1, digests);
            broker_on(&space, &self.places, &server, "default", json!({"storage": {"size": "4Ti"}})).await;
            self.brokers.push((space, server));
        }
        let before = self.homes.len();
        for topic in before..size.topics {
            // The one with the fewest.
            let load = |broker: &usize| self.homes.iter().filter(|home| *home == broker).count();
            let home = (0..size.brokers).min_by_key(load).unwrap_or(topic);
            self.homes.push(home);
        }
        let small = json!({"retention": {"maxSize": "64Mi"}, "maxEventSize": "64Ki"});
        stream::iter(before..size.topics)
            .for_each_concurrent(AT_A_TIME, async |number| {
                self.space(number).topic(&format!("t{number}"), small.clone()).await;
            })
            .await;
        stream::iter(self.handlers..size.handlers)
            .for_each_concurrent(AT_A_TIME, async |number| {
                let sleeping = json!({"autoscaling": {"minReplicas": 0, "maxReplicas": 4, "idleAfter": "1s"}});
                let pods = if number % 2 == 0 { json!({"replicas": 1}) } else { sleeping };
                let pods = merged(&json!({"topic": format!("t{}", number % size.topics)}), &pods);
                let space = self.space(number % size.topics);
                space.create::<EventHandler>(handler(&format!("h{number}"), spec(pods))).await;
            })
            .await;
        self.handlers = size.handlers;
    }

    /// Where the topic of this number is: each broker has its share of the topics that came with it.
    fn space(&self, topic: usize) -> &Space {
        let broker = self.homes[topic];
        &self.brokers[broker].0
    }

    /// Says of the brokers' pods that they are ready, and brings them the certificates of their Secrets: the operator looks
    /// again every five seconds after servers that use others.
    async fn run_brokers(&self) {
        for (space, server) in &self.brokers {
            let sets: Api<StatefulSet> = space.api();
            eventually("a StatefulSet", async || sets.get_opt("default-broker").await.ok()?).await;
            server.bring_certificates(certificates(space, "default").await);
            // The operator takes away a pod that was made from an earlier template.
            run_missing_pods(space, "default").await;
            let set = eventually("a StatefulSet", async || sets.get_opt("default-broker").await.ok()?).await;
            let counts = json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": set.metadata.generation});
            status::<StatefulSet>(space, "default-broker", counts).await;
        }
    }

    /// Answers how long that took.
    async fn until_ready(&self) -> Duration {
        let begun = Instant::now();
        loop {
            // Their StatefulSets may have been changed since the last time.
            self.run_brokers().await;
            let (mut topics, mut handlers) = (0, 0);
            for (space, _) in &self.brokers {
                topics += count::<EventTopic>(space, "Ready").await;
                handlers += count::<EventHandler>(space, "PodsReady").await;
            }
            eprintln!("{:.0?}: {topics} topics are ready, and {handlers} handlers", begun.elapsed());
            if topics == self.homes.len() && handlers == self.handlers {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < LIMIT, "not all are ready");
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// Resident memory of all nats-servers, in MB.
    fn memory_mb(&self) -> f64 {
        let resident = |broker: &TestBroker| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid().unwrap())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
        };
        self.brokers.iter().map(|(_, broker)| resident(broker)).sum()
    }
}

/// A server with room for thousands of topics, which has the name that the operator expects.
async fn server() -> TestBroker {
    let mut server = TestBroker::unformed_as("default-broker", 1);
    server.set_file_store(1 << 42);
    server.seed().unwrap();
    server.wake();
    assert!(server.serves_within(PATIENCE).await, "{}", server.log());
    server.push_ingress_account().await;
    server
}

/// How many have this condition.
async fn count<K>(space: &Space, condition: &str) -> usize
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let all = space.api::<K>().list(&ListParams::default()).await.unwrap().items;
    let has = |resource: &&K| {
        let resource = serde_json::to_value(resource).unwrap();
        let conditions = resource["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|known| known["type"] == condition && known["status"] == "True")
    };
    all.iter().filter(has).count()
}

/// What was measured at one size.
#[derive(Clone, Copy, Debug)]
struct Figures {
    ready_s: f64,
    memory_mb: f64,
    own_memory_mb: f64,
    restart_s: f64,
    restarted_memory_mb: f64,
    writes_per_minute: f64,
    reads_per_s: f64,
    sockets: f64,
    cpu_percent: f64,
    brokers_mb: f64,
}

impl Figures {
    /// Name, value, and what the design wants at its full size.
    fn rows(&self) -> [(&'static str, f64, &'static str); 10] {
        [
            ("made-until-ready-s", self.ready_s, "reported"),
            ("rss-mb", self.memory_mb, "<= 90"),
            ("rss-own-mb", self.own_memory_mb, "reported"),
            ("restart-s", self.restart_s, "<= 30"),
            ("rss-after-restart-mb", self.restarted_memory_mb, "<= 90"),
            ("idle-writes-per-min", self.writes_per_minute, "0"),
            ("idle-reads-per-s", self.reads_per_s, "<= 1"),
            ("idle-cpu-percent-of-a-core", self.cpu_percent, "reported"),
            ("sockets", self.sockets, "reported"),
            ("brokers-rss-mb", self.brokers_mb, "reported"),
        ]
    }

    fn print(&self, what: &str) {
        for (name, value, target) in self.rows() {
            println!("bench\toperator-{what}-{name}\t{value:.2}\t{target}");
        }
    }
}

/// What follows from two sizes for the full one, if everything grows with the number of topics.
fn print_extrapolated((small, one): (Size, Figures), (large, other): (Size, Figures)) {
    #[allow(clippy::cast_precision_loss)] // thousands
    let of = |topics: usize| topics as f64;
    let factor = (of(FULL.topics) - of(large.topics)) / (of(large.topics) - of(small.topics));
    for ((name, one, _), (_, other, target)) in one.rows().into_iter().zip(other.rows()) {
        let value = (other + (other - one) * factor).max(0.0);
        println!("bench\toperator-{}x{}-{name}-extrapolated\t{value:.2}\t{target}", FULL.topics, FULL.handlers);
    }
}

/// An operator at rest, and then its successor.
#[allow(clippy::cast_precision_loss)]
async fn measure(fleet: &Fleet, operator: Process, ready: Duration, audit: &mut Audit) -> (Figures, Process) {
    until_calm(audit).await;
    let used = operator.time();
    tokio::time::sleep(WINDOW).await;
    let (requests, used) = (audit.take(), operator.time() - used);
    tell("at rest", &requests);
    let writes = requests.iter().filter(|request| request.is_write()).count();
    let (sockets, brokers_mb) = (operator.sockets(), fleet.memory_mb());
    let (own, all) = operator.memory();
    operator.kill();
    audit.take();
    let mut successor = Process::start(TEST, &fleet.places);
    let restart = successor.until_converged(LIMIT).await;
    tell("after the restart", &audit.take());
    until_calm(audit).await;
    let figures = Figures {
        ready_s: ready.as_secs_f64(),
        memory_mb: all as f64 / 1e6,
        own_memory_mb: own as f64 / 1e6,
        restart_s: restart.as_secs_f64(),
        restarted_memory_mb: successor.memory().1 as f64 / 1e6,
        writes_per_minute: writes as f64 * 60.0 / WINDOW.as_secs_f64(),
        reads_per_s: (requests.len() - writes) as f64 / WINDOW.as_secs_f64(),
        sockets: sockets as f64,
        cpu_percent: used.as_secs_f64() / WINDOW.as_secs_f64() * 100.0,
        brokers_mb,
    };
    (figures, successor)
}

/// Nothing is written for a while.
async fn until_calm(audit: &mut Audit) {
    let begun = Instant::now();
    let mut calm_since = Instant::now();
    while calm_since.elapsed() < CALM {
        assert!(begun.elapsed() < LIMIT, "the operator does not stop writing");
        tokio::time::sleep(Duration::from_secs(1)).await;
        if audit.take().iter().any(Request::is_write) {
            calm_since = Instant::now();
        }
    }
}

/// What was asked, by verb and kind.
fn tell(when: &str, requests: &[Request]) {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for request in requests {
        *counts.entry((&request.verb, request.kind())).or_default() += 1;
    }
    eprintln!("{when}: {} requests", requests.len());
    for ((verb, kind), count) in counts {
        eprintln!("  {count} {verb} {kind}");
    }
}

const TEST: &str = "scale::operator_in_a_process_of_its_own";

#[test]
#[ignore = "the operator of the figures below, which start it"]
fn operator_in_a_process_of_its_own() {
    process::operate();
}

#[tokio::test]
#[ignore = "minutes: prints figures"]
async fn figures_of_scale() {
    let _turn = turn().await;
    let sizes = Size::all_from(&std::env::var("TIDEGATE_SCALE").unwrap_or_else(|_| DEFAULT.into()));
    let mut audit = Audit::new(&start_audited());
    run_nodes().await;
    let mut fleet = Fleet::default();
    let mut measured: Vec<(Size, Figures)> = Vec::new();
    let mut running = None::<Process>;
    for size in sizes {
        if let Some(operator) = running.take() {
            operator.kill();
        }
        fleet.grow(size).await;
        let operator = Process::start(TEST, &fleet.places);
        let ready = fleet.until_ready().await;
        let (figures, successor) = measure(&fleet, operator, ready, &mut audit).await;
        figures.print(&format!("{}x{}", size.topics, size.handlers));
        measured.push((size, figures));
        running = Some(successor);
    }
    if let [.., small, large] = measured[..]
        && large.0.topics < FULL.topics
    {
        print_extrapolated(small, large);
    }
}
