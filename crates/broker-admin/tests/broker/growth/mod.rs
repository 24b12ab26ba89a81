//! A broker of real servers becomes one of three, of five, and one of one again while events flow.
//!
//! `make soak` takes all of that at 500 events a second, and once more with a server killed after every step; otherwise
//! there are three servers and fewer events.

#![allow(clippy::print_stdout)] // the steps of a run, and its figures

mod load;

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::membership::{self, BrokerStep, Executor, Next, Observed, SiteStep, Step, Wait};
use tidegate_broker_client::TopicId;
use tidegate_test_broker::{TestBroker, topic, topic_id};
use tokio::time::{Instant, sleep};

use load::Load;

/// A change takes seconds. One to a single copy under load takes up to a minute.
const LIMIT: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(50);

/// A broker whose servers come and go.
struct Growing {
    broker: TestBroker,
    executor: Executor,
    system: tidegate_wire::nats::Client,
    accounts: HashMap<String, Broker>,
    /// Whether a server is killed after each step.
    kills: bool,
    steps: Vec<String>,
}

impl Growing {
    async fn start(kills: bool) -> (Self, Vec<async_nats::Client>) {
        let broker = TestBroker::start_fsync(topic()).await;
        let second = TopicId::new("test", "second").unwrap();
        let handle = broker.add_topic(&second, topic()).await;
        let clients = vec![broker.operator(), handle.operator];
        let id = |topic| broker.authority().topic_account_id(topic).unwrap();
        let accounts = HashMap::from([(id(&topic_id()), broker.admin()), (id(&second), handle.admin)]);
        let system = broker.system_client().await;
        let executor = Executor::new(system.clone());
        (Self { broker, executor, system, accounts, kills, steps: Vec::new() }, clients)
    }

    async fn observe(&self) -> Observed {
        let begun = Instant::now();
        loop {
            match membership::observe(&self.system, &self.broker.site()).await {
                Ok(observed) => return observed,
                Err(error) => assert!(begun.elapsed() < LIMIT, "{error}\n{}", self.broker.log()),
            }
            sleep(PAUSE).await;
        }
    }

    /// Step by step, each from nothing but what is observed. What fails is observed to be next again.
    async fn bring_to(&mut self, servers: usize) {
        let begun = Instant::now();
        let mut waits_for = None::<Wait>;
        loop {
            let observed = self.observe().await;
            let next = membership::plan(&self.broker.site(), &observed, servers);
            assert!(begun.elapsed() < LIMIT, "{next:?}\n{observed:#?}\n{}", self.broker.log());
            match next {
                Next::Done => return,
                Next::Wait(wait) => {
                    waits_for = Some(wait);
                    sleep(PAUSE).await;
                }
                Next::Act(step) => {
                    if let Some(wait) = waits_for.take() {
                        println!("  {:>6} ms  {wait}", begun.elapsed().as_millis());
                    }
                    self.act(&step, &observed, begun).await;
                }
            }
        }
    }

    async fn act(&mut self, step: &Step, observed: &Observed, begun: Instant) {
        let text = step.to_string();
        println!("  {:>6} ms  {text}", begun.elapsed().as_millis());
        match step {
            Step::Site(step) => self.broker.step(step).await,
            Step::Broker(step) => {
                if let Err(error) = self.executor.run(step, &self.accounts).await {
                    println!("             {error}");
                }
            }
        }
        let is_new = !self.steps.contains(&text) && !matches!(step, Step::Broker(BrokerStep::Reload { .. }));
        if is_new && self.kills {
            // Whoever leads most suffers most.
            let victim =
                observed.servers.iter().max_by_key(|(_, server)| server.holds).map_or(0, |(ordinal, _)| *ordinal);
            println!("             kill -9 of server {victim}");
            self.broker.crash(victim).await;
        }
        self.steps.push(text);
    }
}

async fn run(sizes: &[usize], rate: u32, kills: bool) {
    let (mut growing, clients) = Growing::start(kills).await;
    let load = Load::start(&clients, rate).await;
    sleep(Duration::from_secs(1)).await;
    for size in sizes {
        println!("to {size} server(s)");
        growing.bring_to(*size).await;
        growing.steps.clear();
        let observed = growing.observe().await;
        assert_eq!(observed.servers.len(), *size);
        assert!(observed.streams.values().all(|stream| stream.copies == *size), "{:#?}", observed.streams);
        sleep(Duration::from_secs(1)).await;
    }
    let result = load.finish().await;
    println!("{result}");
    let log = growing.broker.log();
    // The others count the connection that woke a killed server for some time, and this kills twenty of them. (Only these
    // are leafnodes.) A server that runs needs none.
    let is_told = |line: &&str| line.contains("exceeded") && !(kills && line.contains(" lid:"));
    let exceeded: Vec<&str> = log.lines().filter(is_told).take(3).collect();
    assert!(exceeded.is_empty(), "a limit of an account: {exceeded:#?}");
    assert_eq!((result.lost, result.moved, result.out_of_order, result.positions_lost), (0, 0, 0, 0), "{result}");
    assert_eq!(result.undelivered, 0, "{result}");
    assert!(result.acknowledged > 100, "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_three_one_while_events_flow() {
    run(&[3, 1], 100, false).await;
}

/// Nothing of the plan stops a member; a StatefulSet that somebody makes smaller does. What is left has no majority.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_stopped_comes_back_and_is_removed() {
    let (mut growing, _clients) = Growing::start(false).await;
    let begun = Instant::now();
    loop {
        let observed = growing.observe().await;
        let mut clusters = observed.servers.values().filter_map(|server| server.cluster.as_ref());
        if clusters.any(|cluster| cluster.leader.is_some() && cluster.members.len() > 1) {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{observed:#?}");
        match membership::plan(&growing.broker.site(), &observed, 3) {
            Next::Act(step) => growing.act(&step, &observed, begun).await,
            _ => sleep(PAUSE).await,
        }
    }
    growing.broker.step(&SiteStep::SetPods(1)).await;
    growing.bring_to(1).await;
    // As many as there were members by then: two, if the third had not joined yet.
    let again = |step: &&String| ["running 2 pod(s)", "running 3 pod(s)"].contains(&step.as_str());
    assert!(growing.steps.iter().filter(again).count() >= 2, "{:#?}", growing.steps);
    let observed = growing.observe().await;
    assert!(observed.servers.len() == 1 && observed.is_whole(&growing.broker.site()), "{observed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn one_three_five_three_one_at_500_events_a_second() {
    run(&[3, 5, 3, 1], 500, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn one_three_five_three_one_with_a_kill_after_every_step() {
    run(&[3, 5, 3, 1], 500, true).await;
}
