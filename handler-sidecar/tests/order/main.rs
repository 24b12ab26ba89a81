//! `order: Key` with real brokers and sidecars as processes: order holds while replicas come and go, are killed and
//! paused, and the broker moves.
//!
//! `TIDEGATE_ORDER_EVENTS` is the number of events of each of the 100 keys (100; the full size is 1000).

#![allow(clippy::unwrap_used)]

mod fleet;
mod recorder;
mod relocation;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use fleet::{Fleet, Run, publish, publish_surely};
use recorder::{Figures, Recorder};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

const LANES: u16 = 4;
const KEYS: u64 = 100;
/// The longest that an ordinary event takes.
const TIME: Duration = Duration::from_millis(10);

/// Each run needs the machine for itself.
static ONE: Mutex<()> = Mutex::const_new(());

/// Events of each key.
fn events() -> u64 {
    std::env::var("TIDEGATE_ORDER_EVENTS").ok().and_then(|number| number.parse().ok()).unwrap_or(100)
}

fn run(order: Order) -> Run {
    // Up to a thousand events a second.
    let time = Duration::from_secs(30).max(Duration::from_millis(KEYS * events()));
    Run { order, ack_wait: Duration::from_secs(2), keys: KEYS, events: events(), time }
}

/// The sidecars' whereabouts over a run: 1 → 5 → 2 of them, and in the middle whatever goes wrong.
async fn chaos(broker: &TestBroker, run: Run) -> (Recorder, Duration) {
    // Some events take longer than the broker waits without a sign of life.
    let recorder = Recorder::start(10, TIME, run.ack_wait.mul_f64(1.5)).await;
    let mut fleet = Fleet::new(broker, &run, recorder.port).await;
    let begun = Instant::now();
    let publishing = tokio::spawn(publish(broker.jetstream(), run));
    fleet.scale(1).await;
    sleep(run.time / 10).await;
    fleet.scale(5).await;
    trouble(broker, &mut fleet, begun + run.time.mul_f64(0.55)).await;
    fleet.scale(2).await;
    trouble(broker, &mut fleet, begun + run.time.mul_f64(0.9)).await;
    publishing.await.unwrap();
    all_handled(&recorder, &run).await;
    let took = begun.elapsed();
    // What comes again comes before anything would be over.
    sleep(2 * run.ack_wait).await;
    fleet.scale(0).await;
    (recorder, took)
}

/// Waits until all events are handled, or none is any more.
async fn all_handled(recorder: &Recorder, run: &Run) {
    let (mut handled, mut since) = (0, Instant::now());
    while handled < run.keys * run.events && since.elapsed() < LIMIT {
        sleep(Duration::from_millis(50)).await;
        let now = recorder.handled();
        if now > handled {
            (handled, since) = (now, Instant::now());
        }
    }
}

async fn trouble(broker: &TestBroker, fleet: &mut Fleet, end: Instant) {
    let mut turn = 0;
    while Instant::now() < end {
        let lane = layout::lane_consumer(support::HANDLER, fastrand::u16(0..LANES));
        match turn % 4 {
            0 => fleet.kill().await,
            1 => fleet.pause().await,
            2 => broker.step_down(&lane).await,
            _ => unpin(broker, &lane).await,
        }
        turn += 1;
        sleep(Duration::from_millis(fastrand::u64(300..1500))).await;
    }
}

async fn unpin(broker: &TestBroker, consumer: &str) {
    let group = format!(r#"{{"group":"{}"}}"#, layout::LANE_GROUP);
    let _ = broker.operator().request(layout::unpin_subject(consumer), group.into()).await;
}

/// The figures of a run, for who runs the tests with `--nocapture`.
fn tell(what: &str, run: &Run, took: Duration, figures: Figures) {
    let rate = (run.keys * run.events) as f64 / took.as_secs_f64();
    eprintln!("{what}: {} × {} events in {took:.1?} ({rate:.0}/s): {figures:?}", run.keys, run.events);
}

async fn holds_in_chaos(what: &str, broker: &TestBroker) {
    let run = run(Order::Key { lanes: LANES });
    let (recorder, took) = chaos(broker, run).await;
    let figures = recorder.figures();
    tell(what, &run, took, figures);
    assert_eq!(recorder.handled(), run.keys * run.events, "lost: {}", broker.log());
    assert_eq!(figures.violations, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_in_chaos_on_one_server() {
    let _one = ONE.lock().await;
    holds_in_chaos("chaos, one server", &TestBroker::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_in_chaos_on_three_servers() {
    let _one = ONE.lock().await;
    holds_in_chaos("chaos, three servers", &TestBroker::start_cluster().await).await;
}

/// A server that is killed forgets what it has lent and what it has confirmed; the sidecar, which lives, does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_the_only_server_is_killed_under_load() {
    const KILLS: u64 = 5;
    let _one = ONE.lock().await;
    let mut broker = TestBroker::start().await;
    let events = events().div_ceil(4);
    let time = Duration::from_secs(10).max(Duration::from_millis(2 * KEYS * events));
    let ack_wait = Duration::from_secs(10);
    let run = Run { events, time, ack_wait, ..run(Order::Key { lanes: LANES }) };
    let recorder = Recorder::start(10, TIME, TIME).await;
    let mut fleet = Fleet::new(&broker, &run, recorder.port).await;
    fleet.scale(1).await;
    let begun = Instant::now();
    let publishing = tokio::spawn(publish_surely(broker.jetstream(), run));
    for kill in 1..=KILLS {
        let handled = kill * run.keys * run.events / (KILLS + 1);
        support::eventually("events are handled", async || recorder.handled() >= handled).await;
        broker.restart().await;
    }
    publishing.await.unwrap();
    let end = Instant::now() + LIMIT;
    while recorder.handled() < run.keys * run.events && Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed();
    fleet.scale(0).await;
    tell("the only server killed", &run, took, recorder.figures());
    assert_eq!(recorder.handled(), run.keys * run.events, "lost: {}", broker.log());
    assert_eq!(recorder.figures().violations, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_order_the_same_run_breaks_it() {
    let _one = ONE.lock().await;
    let broker = TestBroker::start().await;
    let run = Run { events: 20, time: Duration::from_secs(8), ..run(Order::None) };
    let (recorder, took) = chaos(&broker, run).await;
    tell("without order", &run, took, recorder.figures());
    assert!(recorder.figures().violations > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_and_shrinking_loses_and_repeats_nothing() {
    let _one = ONE.lock().await;
    let broker = TestBroker::start().await;
    let run = Run {
        ack_wait: Duration::from_secs(10),
        events: 100,
        time: Duration::from_secs(15),
        ..run(Order::Key { lanes: LANES })
    };
    let recorder = Recorder::start(0, TIME, TIME).await;
    let mut fleet = Fleet::new(&broker, &run, recorder.port).await;
    let begun = Instant::now();
    let publishing = tokio::spawn(publish(broker.jetstream(), run));
    for replicas in [1, 5, 2] {
        fleet.scale(replicas).await;
        sleep(run.time / 4).await;
    }
    publishing.await.unwrap();
    all_handled(&recorder, &run).await;
    let took = begun.elapsed();
    fleet.scale(0).await;
    let figures = recorder.figures();
    tell("1 → 5 → 2", &run, took, figures);
    assert_eq!((figures.violations, figures.overlaps, figures.repeated), (0, 0, 0));
    assert_eq!(figures.requests, run.keys * run.events);
}
