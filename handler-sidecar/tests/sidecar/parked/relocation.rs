//! What is parked or held when the handler's place in its topic changes.

use std::time::Duration;

use tidegate_broker_client::contract::{OnExhausted, Relocation, Sidecar};
use tidegate_broker_client::layout;

use super::{Bench, CALM, Patience, by_key, handled};
use crate::support::{HANDLER, Running, dead_letters, header, relocation};

/// Keys that have their events in several lanes, whatever the number.
const FAILING: [&str; 6] = ["fails0", "fails1", "fails2", "fails3", "fails4", "fails5"];

async fn publish(bench: &Bench, numbers: std::ops::RangeInclusive<u64>) {
    let events = numbers.flat_map(|number| FAILING.iter().map(move |key| ((*key).to_owned(), number)));
    bench.publish_all(events.collect()).await;
}

/// Nothing of a key is delivered before what was parked of it in another lane.
#[tokio::test]
async fn parked_keys_go_on_in_other_lanes() {
    let mut bench = Bench::start(2, CALM, Patience::of(Duration::from_secs(2))).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    publish(&bench, 0..=40).await;
    bench.until("most are parked", async || bench.parked().await >= 6 * 24).await;
    sidecar.terminate().await;
    let mut handler = bench.handler.clone();
    let mut settled = Vec::new();
    for lanes in [5, 32, 3] {
        let (told, identity) = relocation::change_lanes(&bench.broker, &mut handler, lanes, &settled).await;
        settled.clone_from(&told.settled);
        bench.config.delivery.order = handler.order;
        (bench.config.relocation, bench.config.identity) = (told, identity);
    }
    bench.fail(false);
    let sidecar = Running::ready(bench.config.clone()).await;
    publish(&bench, 41..=45).await;
    bench.until_handled(6 * 46).await;
    for (key, numbers) in by_key(&bench) {
        assert_eq!(numbers, (0..=45).collect::<Vec<_>>(), "{key}");
    }
    bench.until("the shelf is empty", async || bench.parked().await == 0).await;
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_held_key_stays_held_in_another_lane_until_it_is_released() {
    let mut bench = Bench::start(1, CALM, Patience { wait: Duration::from_millis(100), attempts: 2 }).await;
    bench.config.delivery.on_exhausted = OnExhausted::Park;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=5).await;
    bench.until("the key is held", async || bench.held().await.len() == 1).await;
    sidecar.terminate().await;
    let mut handler = bench.handler.clone();
    let (told, identity) = relocation::change_lanes(&bench.broker, &mut handler, 32, &[]).await;
    bench.config.delivery.order = handler.order;
    (bench.config.relocation, bench.config.identity) = (told, identity);
    let lane = layout::lane_of(layout::partition("fails"), 32);
    let mark = layout::held_subject(HANDLER, lane, layout::key_digest("fails"));
    assert_eq!(bench.held().await, [mark]);
    bench.fail(false);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("passes", 0..=9).await;
    bench.until_handled(10).await;
    assert!(handled(&bench, "fails").is_empty());
    bench.release().await;
    bench.until_handled(16).await;
    assert_eq!(handled(&bench, "fails"), (0..=5).collect::<Vec<_>>());
    sidecar.terminate().await;
}

/// As its next sidecars are told.
fn rewound(bench: &Bench, identity: std::path::PathBuf) -> Sidecar {
    let relocation = Relocation { rewinds: 1, ..Relocation::default() };
    Sidecar { relocation, identity, ..bench.config.clone() }
}

/// What was parked comes again from the topic. It is parked again although the shelf knows its message ids, and no copy
/// of it is lost.
#[tokio::test]
async fn what_was_parked_and_is_replayed_is_parked_again() {
    let mut bench = Bench::start(1, CALM, Patience::of(Duration::from_secs(7))).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=40).await;
    bench.until("most are parked", async || bench.parked().await >= 24).await;
    sidecar.terminate().await;
    // The first two stay as they are.
    let identity = relocation::rewind(&bench.broker, &bench.handler, 3).await;
    assert!(bench.parked().await <= 2);
    bench.config = rewound(&bench, identity);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.until("most are parked again", async || bench.parked().await >= 24).await;
    bench.fail(false);
    bench.until_handled(41).await;
    assert_eq!(handled(&bench, "fails"), (0..=40).collect::<Vec<_>>(), "in order, and once");
    bench.until_empty().await;
    sidecar.terminate().await;
}

/// Each event from there on comes again, in order, with all its attempts; a dead letter of it is another one.
#[tokio::test]
async fn what_is_replayed_has_all_its_attempts_and_a_dead_letter_of_its_own() {
    let mut bench = Bench::start(1, CALM, Patience { wait: Duration::from_millis(50), attempts: 2 }).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("passes", 1..=10).await;
    bench.publish("fails", 11..=11).await;
    bench.publish("passes", 12..=20).await;
    bench.until("it is a dead letter", async || dead_letters(&bench.broker).await.len() == 1).await;
    bench.until_handled(19).await;
    sidecar.terminate().await;
    let identity = relocation::rewind(&bench.broker, &bench.handler, 6).await;
    bench.config = rewound(&bench, identity);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.until("it is a dead letter again", async || dead_letters(&bench.broker).await.len() == 2).await;
    bench.until_handled(19 + 14).await;
    let letters = dead_letters(&bench.broker).await;
    assert!(letters.iter().all(|letter| header(letter, "Tidegate-Attempts") == "2"));
    let all: Vec<u64> = (1..=10).chain(12..=20).chain(6..=10).chain(12..=20).collect();
    assert_eq!(handled(&bench, "passes"), all);
    bench.until_empty().await;
    sidecar.terminate().await;
}
