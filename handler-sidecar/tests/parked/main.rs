//! `order: Key` where an event fails: what is behind it of its key is parked, others pass, and its key continues in
//! order.
//!
//! `TIDEGATE_PARKED_EVENTS` is the number of events behind the failing one (500), `TIDEGATE_PARKED_KEYS` that of
//! failing keys (300).

#![allow(clippy::unwrap_used)] // test code

mod bench;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bench::{Bench, Patience, number};
use tidegate_broker_client::layout;
use tokio::time::Instant;

use support::{Process, Running, all_settled_by, free_port};

const ACK_WAIT: Duration = Duration::from_secs(3);
/// Longer than any test: what comes before it does not wait for it.
const FOR_GOOD: Duration = Duration::from_secs(600);

/// The numbers of the events of a key, in the order in which the handler got them, those that failed left out.
fn handled(bench: &Bench, key: &str) -> Vec<u64> {
    bench.handled().iter().filter_map(|id| id.strip_prefix(key)?.strip_prefix('-')?.parse().ok()).collect()
}

#[tokio::test]
async fn another_key_passes_however_many_events_are_behind_a_failing_one() {
    let count = number("TIDEGATE_PARKED_EVENTS", 500);
    let bench = Bench::start(1, ACK_WAIT, Patience::of(FOR_GOOD)).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=0).await;
    bench.until("the first one fails", async || bench.count() == 1).await;
    let begun = Instant::now();
    bench.publish("fails", 1..=70).await;
    let published = Instant::now();
    bench.publish("passes", 1..=1).await;
    bench.until("another key passes 70", async || handled(&bench, "passes") == [1]).await;
    eprintln!("past 70: {:?} after {:?} of publishing", published.elapsed(), published - begun);
    bench.publish("fails", 71..=count).await;
    let published = Instant::now();
    bench.publish("passes", 2..=2).await;
    bench.until("another key passes all", async || handled(&bench, "passes") == [1, 2]).await;
    eprintln!("past {count}: {:?}", published.elapsed());
    assert!(handled(&bench, "fails").is_empty());
    bench.until("all but a few are parked", async || bench.parked().await + 17 > usize::try_from(count).unwrap()).await;
    sidecar.terminate().await;
}

#[tokio::test]
async fn what_was_parked_comes_in_order_and_once() {
    let count = number("TIDEGATE_PARKED_EVENTS", 500);
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(1))).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=count).await;
    bench.until("events are parked", async || bench.parked().await + 64 > usize::try_from(count).unwrap()).await;
    bench.fail(false);
    let begun = Instant::now();
    bench.publish("fails", count + 1..=count + 10).await;
    bench.until_handled(usize::try_from(count).unwrap() + 11).await;
    eprintln!("{count} in {:?}", begun.elapsed());
    assert_eq!(handled(&bench, "fails"), (0..=count + 10).collect::<Vec<_>>());
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    assert_eq!(bench.parked().await, 0, "nothing is left on the shelf");
    sidecar.terminate().await;
}

/// An event that was parked fails on its own: its attempts are counted, it becomes a dead letter, the next one
/// continues.
#[tokio::test]
async fn a_parked_event_has_attempts_of_its_own() {
    let bench = Bench::start(1, ACK_WAIT, Patience { wait: Duration::from_millis(300), attempts: 2 }).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=40).await;
    // Where nothing else succeeds the handler is down, and attempts of others than the first do not count.
    let mut passed = 0;
    let mut passes = async || {
        passed += 1;
        bench.publish("passes", passed..=passed).await;
        support::dead_letters(&bench.broker).await.len() >= 2
    };
    bench.until("two are dead letters", async || passes().await).await;
    bench.fail(false);
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    assert_eq!(bench.parked().await, 0);
    let letters = support::dead_letters(&bench.broker).await;
    assert!(letters.iter().all(|letter| support::header(letter, "Tidegate-Attempts") == "2"));
    let (first, ids) = (u64::try_from(letters.len()).unwrap(), letters.iter().map(|l| support::header(l, "ce-id")));
    assert_eq!(ids.collect::<Vec<_>>(), (0..first).map(|id| format!("fails-{id}")).collect::<Vec<_>>());
    assert_eq!(handled(&bench, "fails"), (first..=40).collect::<Vec<_>>(), "the others, in order");
    sidecar.terminate().await;
}

/// An event whose attempts have no end is found out: those that were begun are on record.
#[tokio::test]
async fn a_parked_event_that_is_never_finished_becomes_a_dead_letter() {
    let bench = Bench::start(1, ACK_WAIT, Patience { wait: Duration::from_secs(1), attempts: 5 }).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=40).await;
    bench.until("events are parked", async || bench.parked().await >= 20).await;
    bench.record_begun(2, 21).await;
    bench.record_begun(3, 20).await;
    bench.fail(false);
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    let letters = support::dead_letters(&bench.broker).await;
    let reasons: Vec<&str> = letters.iter().map(|letter| support::header(letter, "Tidegate-Reason")).collect();
    assert_eq!(reasons, ["never-finished"]);
    assert_eq!(support::header(&letters[0], "ce-id"), "fails-1", "of 21, which is more than 2 × 5 + 10");
    let others: Vec<u64> = (0..=40).filter(|number| *number != 1).collect();
    assert_eq!(handled(&bench, "fails"), others);
    sidecar.terminate().await;
}

/// The owner is killed while the head still fails; and again while the parked events are delivered.
#[tokio::test]
async fn the_next_owner_goes_on_in_order() {
    const COUNT: u64 = 80;
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(1))).await;
    bench.fail(true);
    let first = Process::start(&bench.config).await;
    bench.publish("fails", 0..=COUNT).await;
    bench.until("events are parked", async || bench.parked().await >= 40).await;
    drop(first);
    bench.take(Duration::from_millis(30));
    bench.fail(false);
    let second = Process::start(&bench.config).await;
    bench.until("parked events are delivered", async || handled(&bench, "fails").len() > 10).await;
    drop(second);
    let third = Process::start(&bench.config).await;
    bench.until("all are handled", async || handled(&bench, "fails").contains(&COUNT)).await;
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    let mut came = handled(&bench, "fails");
    assert!(came.is_sorted(), "{came:?}");
    let repeated = came.len();
    came.dedup();
    assert!(repeated - came.len() <= 2, "only what was under way when an owner was killed: {came:?}");
    assert_eq!(came, (0..=COUNT).collect::<Vec<_>>());
    assert_eq!(bench.parked().await, 0);
    let records = bench.records().await;
    let begun = records.iter().filter(|record| record["attempts"] == 0 && record["settled"] != true);
    assert_eq!(begun.count(), 2, "of what each of two owners found first: {records:?}");
    drop(third);
}

/// A drain while the head fails: the next owner has the head, and nothing comes twice.
#[tokio::test]
async fn a_lane_that_is_handed_over_goes_on_in_order() {
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(1))).await;
    bench.fail(true);
    let first = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=60).await;
    bench.until("events are parked", async || bench.parked().await >= 40).await;
    bench.take(Duration::from_millis(20));
    bench.fail(false);
    bench.until("parked events are delivered", async || handled(&bench, "fails").len() > 10).await;
    let mut config = bench.config.clone();
    config.admin_port = free_port();
    let second = Running::ready(config).await;
    first.terminate().await;
    bench.until("all are handled", async || handled(&bench, "fails").len() > 60).await;
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    assert_eq!(handled(&bench, "fails"), (0..=60).collect::<Vec<_>>());
    second.terminate().await;
}

/// Without room on the shelf the events stay where they are, and hold up the lane until the head is settled.
#[tokio::test]
async fn a_shelf_without_room_loses_nothing() {
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(1))).await;
    bench.limit_shelf(1).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=600).await;
    bench.publish("passes", 1..=1).await;
    bench.until("the first one is tried again", async || bench.count() >= 2).await;
    assert_eq!(bench.parked().await, 0);
    bench.fail(false);
    bench.until_handled(602).await;
    assert_eq!(handled(&bench, "fails"), (0..=600).collect::<Vec<_>>());
    assert_eq!(handled(&bench, "passes"), [1]);
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    sidecar.terminate().await;
}

/// The shelf is full for a while: what was parked before and what was not come in one order.
#[tokio::test]
async fn a_shelf_that_fills_up_keeps_the_order() {
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(1))).await;
    bench.limit_shelf(20_000).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=200).await;
    bench.until("the shelf is full", async || bench.parked().await >= 20).await;
    bench.fail(false);
    bench.until_handled(201).await;
    assert_eq!(handled(&bench, "fails"), (0..=200).collect::<Vec<_>>());
    all_settled_by(&bench.broker, &bench.lane(0)).await;
    assert_eq!(bench.parked().await, 0);
    sidecar.terminate().await;
}

/// What the topic's stream no longer has is on the shelf still, and is delivered while its owner lives.
#[tokio::test]
async fn a_topic_that_is_purged_keeps_what_is_parked() {
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(2))).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=40).await;
    bench.until("events are parked", async || bench.parked().await >= 24).await;
    bench.purge_topic().await;
    bench.fail(false);
    bench.until("they are delivered", async || bench.parked().await == 0).await;
    let came = handled(&bench, "fails");
    assert!(came.len() >= 25 && came[..25] == (0..25).collect::<Vec<_>>(), "{came:?}");
    sidecar.terminate().await;
}

/// More keys fail at a time than the window of a lane has room for: what is behind them waits, and nothing is lost.
#[tokio::test]
async fn more_failing_keys_than_a_lane_has_room_for_hold_it_up() {
    const KEYS: u64 = 600;
    let bench = Bench::start(1, Duration::from_secs(10), Patience::of(Duration::from_secs(4))).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    for key in 0..KEYS {
        bench.publish(&format!("fails{key}"), 1..=2).await;
        bench.publish("passes", key..=key).await;
    }
    let room = usize::from(layout::LANE_WINDOW);
    bench.until("others pass", async || handled(&bench, "passes").len() + 20 > room).await;
    let passed = handled(&bench, "passes").len();
    assert!(passed <= room, "each of {passed} has a failing key before it, of which {room} are in flight");
    bench.fail(false);
    bench.until_handled(usize::try_from(3 * KEYS).unwrap()).await;
    assert_eq!(handled(&bench, "passes"), (0..KEYS).collect::<Vec<_>>());
    assert!((0..KEYS).all(|key| handled(&bench, &format!("fails{key}")) == [1, 2]));
    bench.until("the shelf is empty", async || bench.parked().await == 0).await;
    sidecar.terminate().await;
}

/// Many keys fail at a time, in several lanes: each has a head in its lane, and the rest of it on the shelf.
#[tokio::test]
async fn many_keys_are_parked_at_a_time() {
    const EACH: u64 = 3;
    let keys = number("TIDEGATE_PARKED_KEYS", 300);
    let bench = Bench::start(8, Duration::from_secs(10), Patience::of(Duration::from_secs(4))).await;
    bench.fail(true);
    let sidecar = Process::start(&bench.config).await;
    for key in 0..keys {
        bench.publish(&format!("fails{key}"), 1..=EACH).await;
        bench.publish(&format!("passes{key}"), 1..=4).await;
    }
    let behind = usize::try_from(keys * (EACH - 1)).unwrap();
    bench.until("all but a few of each lane are parked", async || bench.parked().await + 8 * 32 > behind).await;
    eprintln!("{keys} keys: {} parked, peak {} KiB", bench.parked().await, sidecar.peak());
    bench.fail(false);
    bench.until_handled(usize::try_from(keys * (EACH + 4)).unwrap()).await;
    eprintln!("peak {} KiB", sidecar.peak());
    let mut came = BTreeMap::<String, Vec<String>>::new();
    for id in bench.handled() {
        let (key, number) = id.split_once('-').unwrap();
        came.entry(key.to_owned()).or_default().push(number.to_owned());
    }
    assert!(came.values().all(|numbers| numbers.is_sorted()), "{came:?}");
    bench.until("the shelf is empty", async || bench.parked().await == 0).await;
    drop(sidecar);
}
