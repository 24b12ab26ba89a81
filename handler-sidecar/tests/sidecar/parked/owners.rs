//! Parked keys and those who own a lane one after the other.

use std::time::Duration;

use tokio::time::Instant;

use super::{ACK_WAIT, Bench, CALM, Patience, handled};
use crate::support::{Process, Running};

/// Whether an attempt is on record as begun of which no end is.
fn was_begun(record: &serde_json::Value) -> bool {
    let number = |what: &str| record[what].as_u64().unwrap_or(0);
    number("deliveries") > number("attempts") + number("outageAttempts") + number("untried")
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
    bench.until_empty().await;
    let mut came = handled(&bench, "fails");
    assert!(came.is_sorted(), "{came:?}");
    let repeated = came.len();
    came.dedup();
    assert!(repeated - came.len() <= 2, "only what was under way when an owner was killed: {came:?}");
    assert_eq!(came, (0..=COUNT).collect::<Vec<_>>());
    let records = bench.records().await;
    let begun = records.iter().filter(|record| was_begun(record));
    assert_eq!(begun.count(), 2, "of what each of two owners found first: {records:?}");
    drop(third);
}

/// A drain while parked events are delivered: the next owner continues, and nothing comes twice.
#[tokio::test]
async fn a_lane_that_is_handed_over_goes_on_in_order() {
    let bench = Bench::start(1, CALM, Patience::of(Duration::from_secs(1))).await;
    bench.fail(true);
    let first = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=60).await;
    bench.until("events are parked", async || bench.parked().await >= 40).await;
    bench.take(Duration::from_millis(20));
    bench.fail(false);
    bench.until("parked events are delivered", async || handled(&bench, "fails").len() > 10).await;
    let second = Running::ready(bench.another()).await;
    first.terminate().await;
    bench.until("all are handled", async || handled(&bench, "fails").len() > 60).await;
    bench.until_empty().await;
    assert_eq!(handled(&bench, "fails"), (0..=60).collect::<Vec<_>>());
    second.terminate().await;
}

/// An owner that leaves gives up the shelf: the next one need not wait until a dead one's lease would be over, which is
/// 15 s.
#[tokio::test]
async fn an_owner_that_leaves_gives_up_the_shelf() {
    let bench = Bench::start(1, CALM, Patience::of(Duration::from_millis(500))).await;
    bench.fail(true);
    let first = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=60).await;
    bench.until("events are parked", async || bench.parked().await >= 40).await;
    bench.until("a parked one is tried", async || bench.count() >= 3).await;
    first.terminate().await;
    bench.until("the lease is free", async || bench.is_shelf_free(0).await).await;
    bench.fail(false);
    let begun = Instant::now();
    let second = Running::ready(bench.another()).await;
    bench.until_handled(61).await;
    let waited = begun.elapsed();
    eprintln!("continued within {waited:?}");
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    bench.until_empty().await;
    assert_eq!(handled(&bench, "fails"), (0..=60).collect::<Vec<_>>());
    second.terminate().await;
}

/// What the topic's stream no longer has is on the shelf still.
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

/// The next owner needs no event of the lane to find what is parked.
#[tokio::test]
async fn the_next_owner_delivers_what_is_parked_of_a_topic_that_is_purged() {
    let bench = Bench::start(1, CALM, Patience::of(Duration::from_secs(1))).await;
    bench.fail(true);
    let first = Process::start(&bench.config).await;
    bench.publish("fails", 0..=80).await;
    bench.until("events are parked", async || bench.parked().await > 80 - 16).await;
    drop(first);
    // Nothing may come twice: where leases are short, the next owner would lose its own on a busy machine. So they are
    // long, and that of the dead owner need not be waited for here.
    bench.free_shelf(0).await;
    bench.purge_topic().await;
    bench.fail(false);
    let second = Running::ready(bench.another()).await;
    bench.until_empty().await;
    let came = handled(&bench, "fails");
    assert!(came.len() > 80 - 16 && came == (0..=came[came.len() - 1]).collect::<Vec<_>>(), "{came:?}");
    second.terminate().await;
}

/// A consumer that is made again begins at what the operator has on record, which is behind what was parked since.
#[tokio::test]
async fn a_consumer_that_is_lost_with_its_owner_repeats_nothing_that_is_parked() {
    let bench = Bench::start(1, CALM, Patience::of(Duration::from_secs(1))).await;
    bench.fail(true);
    let first = Process::start(&bench.config).await;
    bench.publish("fails", 0..=0).await;
    bench.until("the first one fails", async || bench.count() > 0).await;
    let position = bench.position().await;
    bench.publish("fails", 1..=80).await;
    bench.until("events are parked", async || bench.parked().await > 80 - 16).await;
    drop(first);
    bench.free_shelf(0).await;
    bench.lose_consumer(&position).await;
    bench.fail(false);
    let second = Running::ready(bench.another()).await;
    bench.until("all are handled", async || handled(&bench, "fails").contains(&80)).await;
    bench.until_empty().await;
    assert_eq!(handled(&bench, "fails"), (0..=80).collect::<Vec<_>>());
    second.terminate().await;
}
