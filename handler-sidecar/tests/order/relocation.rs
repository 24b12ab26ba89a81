//! The number of lanes changes, and the handler is moved back, while events are published.

use std::time::Duration;

use tidegate_broker_client::contract::Order;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, consumers_of, publish};
use crate::recorder::Recorder;
use crate::support::relocation;
use crate::{KEYS, LANES, ONE, Run, TIME, all_handled, run, tell};

/// More lanes and fewer, one and as many as there can be, with failing attempts: nothing is lost, nothing comes out of
/// order, and nothing that was handled comes again.
async fn lanes_change(what: &str, broker: &TestBroker) {
    let run = Run {
        ack_wait: Duration::from_secs(10),
        time: Duration::from_secs(20).max(Duration::from_millis(KEYS * crate::events())),
        ..run(Order::Key { lanes: LANES })
    };
    let recorder = Recorder::start(10, TIME, TIME).await;
    let mut handler = consumers_of(&run);
    let mut fleet = Fleet::new(broker, &run, recorder.port).await;
    fleet.scale(3).await;
    let begun = Instant::now();
    let publishing = tokio::spawn(publish(broker.jetstream(), run));
    let mut settled = Vec::new();
    for lanes in [8, 3, 32, 1, 4] {
        sleep(run.time / 8).await;
        relocation::drain(broker, &handler).await;
        fleet.scale(0).await;
        let (told, identity) = relocation::change_lanes(broker, &mut handler, lanes, &settled).await;
        settled.clone_from(&told.settled);
        fleet.config.delivery.order = handler.order;
        (fleet.config.relocation, fleet.config.identity) = (told, identity);
        fleet.scale(3).await;
    }
    publishing.await.unwrap();
    all_handled(&recorder, &run).await;
    let took = begun.elapsed();
    fleet.scale(0).await;
    let figures = recorder.figures();
    tell(what, &run, took, figures);
    assert_eq!(recorder.handled(), run.keys * run.events, "lost: {}", broker.log());
    assert_eq!((figures.violations, figures.overlaps, figures.repeated), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_the_number_of_lanes_changes_on_one_server() {
    let _one = ONE.lock().await;
    lanes_change("lanes, one server", &TestBroker::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_the_number_of_lanes_changes_on_three_servers() {
    let _one = ONE.lock().await;
    lanes_change("lanes, three servers", &TestBroker::start_cluster().await).await;
}

/// Sidecars are killed in the middle of their work, and nothing is drained: what was acknowledged beyond what was not
/// may come again, and nothing is lost. Each key goes back to an earlier event at most, and on in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_lanes_change_under_sidecars_that_were_killed() {
    let _one = ONE.lock().await;
    let broker = TestBroker::start().await;
    let run = Run { ack_wait: Duration::from_secs(2), events: 50, ..run(Order::Key { lanes: LANES }) };
    let run = Run { time: Duration::from_secs(12), ..run };
    let recorder = Recorder::start(10, TIME, TIME).await;
    let mut handler = consumers_of(&run);
    let mut fleet = Fleet::new(&broker, &run, recorder.port).await;
    fleet.scale(3).await;
    let publishing = tokio::spawn(publish(broker.jetstream(), run));
    let mut settled = Vec::new();
    for lanes in [7, 2] {
        sleep(run.time / 4).await;
        fleet.processes.clear();
        let (told, identity) = relocation::change_lanes(&broker, &mut handler, lanes, &settled).await;
        settled.clone_from(&told.settled);
        fleet.config.delivery.order = handler.order;
        (fleet.config.relocation, fleet.config.identity) = (told, identity);
        fleet.scale(3).await;
    }
    publishing.await.unwrap();
    all_handled(&recorder, &run).await;
    fleet.scale(0).await;
    tell("lanes, killed", &run, run.time, recorder.figures());
    assert_eq!(recorder.handled(), run.keys * run.events, "lost: {}", broker.log());
}
