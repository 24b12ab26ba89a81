//! `order: Key` where an event fails: what is behind it of its key is parked, others pass, and its key continues in
//! order.
//!
//! `TIDEGATE_PARKED_EVENTS` is the number of events behind the failing one (500), `TIDEGATE_PARKED_KEYS` that of
//! failing keys (300).

mod bench;
mod held;
mod owners;
mod relocation;

use std::collections::BTreeMap;
use std::time::Duration;

use self::bench::{Bench, Patience, number};
use tokio::time::Instant;

use crate::support::{Process, Running};

const ACK_WAIT: Duration = Duration::from_secs(3);
/// Where nothing may come twice: a lease is lost by who does not get to renew it for most of a third of this.
const CALM: Duration = Duration::from_secs(30);
/// Longer than any test: what comes before it does not wait for it.
const FOR_GOOD: Duration = Duration::from_secs(600);

/// The numbers of the events of a key, in the order in which the handler got them, those that failed left out.
fn handled(bench: &Bench, key: &str) -> Vec<u64> {
    bench.handled().iter().filter_map(|id| id.strip_prefix(key)?.strip_prefix('-')?.parse().ok()).collect()
}

/// The same of all keys.
fn by_key(bench: &Bench) -> BTreeMap<String, Vec<u64>> {
    let mut came = BTreeMap::<String, Vec<u64>>::new();
    for id in bench.handled() {
        let (key, number) = id.split_once('-').unwrap();
        came.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    came
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
    // It and all behind it, but 16.
    bench.until("all but a few are parked", async || bench.parked().await + 16 > usize::try_from(count).unwrap()).await;
    sidecar.terminate().await;
}

#[tokio::test]
async fn what_was_parked_comes_in_order_and_once() {
    let count = number("TIDEGATE_PARKED_EVENTS", 500);
    let bench = Bench::start(1, CALM, Patience::of(Duration::from_secs(1))).await;
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
    bench.until_empty().await;
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
        crate::support::dead_letters(&bench.broker).await.len() >= 2
    };
    bench.until("two are dead letters", async || passes().await).await;
    bench.fail(false);
    bench.until_empty().await;
    let letters = crate::support::dead_letters(&bench.broker).await;
    assert!(letters.iter().all(|letter| crate::support::header(letter, "Tidegate-Attempts") == "2"));
    let (first, ids) =
        (u64::try_from(letters.len()).unwrap(), letters.iter().map(|l| crate::support::header(l, "ce-id")));
    assert_eq!(ids.collect::<Vec<_>>(), (0..first).map(|id| format!("fails-{id}")).collect::<Vec<_>>());
    assert_eq!(handled(&bench, "fails"), (first..=40).collect::<Vec<_>>(), "the others, in order");
    sidecar.terminate().await;
}

/// The clocks of the pods that parked these are an hour ahead of ours and an hour behind: each waits twice at most.
#[tokio::test]
async fn clocks_that_are_off_by_an_hour_hold_up_no_parked_key() {
    const HOUR: i64 = 3_600_000;
    let bench = Bench::start(1, ACK_WAIT, Patience::of(Duration::from_secs(1))).await;
    let wait = Duration::from_millis(1500);
    for (key, number, left) in [("ahead", 1, HOUR + 1500), ("ahead", 2, HOUR), ("behind", 3, 1500 - HOUR)] {
        bench.park(key, number, wait, left).await;
    }
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.until_handled(3).await;
    assert_eq!((handled(&bench, "ahead"), handled(&bench, "behind")), (vec![1, 2], vec![3]));
    bench.until_empty().await;
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
    bench.until_empty().await;
    let letters = crate::support::dead_letters(&bench.broker).await;
    let reasons: Vec<&str> = letters.iter().map(|letter| crate::support::header(letter, "Tidegate-Reason")).collect();
    assert_eq!(reasons, ["never-finished"]);
    assert_eq!(crate::support::header(&letters[0], "ce-id"), "fails-1", "of 21, which is more than 2 × 5 + 10");
    let others: Vec<u64> = (0..=40).filter(|number| *number != 1).collect();
    assert_eq!(handled(&bench, "fails"), others);
    sidecar.terminate().await;
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
    assert!(handled(&bench, "passes").is_empty(), "a lane has 512 events in flight at most, which are those before it");
    bench.fail(false);
    bench.until_handled(602).await;
    assert_eq!(handled(&bench, "fails"), (0..=600).collect::<Vec<_>>());
    assert_eq!(handled(&bench, "passes"), [1]);
    bench.until_empty().await;
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
    bench.until_empty().await;
    sidecar.terminate().await;
}

/// More keys fail at a time than the window of a lane has room for: all of them are parked, and others pass.
#[tokio::test]
async fn a_thousand_parked_keys_leave_the_lane_to_others() {
    const KEYS: u64 = 1000;
    let failing = |key: u64| format!("fails{key}");
    let bench = Bench::start(1, CALM, Patience::of(Duration::from_secs(6))).await;
    bench.fail(true);
    let sidecar = Running::ready(bench.config.clone()).await;
    let of_one = |key| [(failing(key), 1), (failing(key), 2), ("passes".to_owned(), key)];
    bench.publish_all((0..KEYS).flat_map(of_one).collect()).await;
    bench.until("others pass", async || handled(&bench, "passes").len() == 1000).await;
    bench.until("all but a few are parked", async || bench.parked().await + 16 >= 2000).await;
    let published = Instant::now();
    bench.publish("passes", KEYS..=KEYS + 10).await;
    bench.until("others pass still", async || handled(&bench, "passes").len() == 1011).await;
    eprintln!("past {KEYS} parked keys: {:?}", published.elapsed());
    bench.fail(false);
    bench.until_handled(3011).await;
    bench.until_empty().await;
    let mut came = by_key(&bench);
    assert_eq!(came.remove("passes"), Some((0..=KEYS + 10).collect()));
    assert_eq!(came, (0..KEYS).map(|key| (failing(key), vec![1, 2])).collect::<BTreeMap<_, _>>());
    sidecar.terminate().await;
}

/// Many keys fail at a time, in several lanes.
#[tokio::test]
async fn many_keys_are_parked_at_a_time() {
    const EACH: u64 = 3;
    let keys = number("TIDEGATE_PARKED_KEYS", 300);
    let mut bench = Bench::start(8, CALM, Patience::of(Duration::from_secs(4))).await;
    bench.expect_keys(keys).await;
    bench.fail(true);
    let sidecar = Process::start(&bench.config).await;
    let begun = Instant::now();
    let of_one = |key| {
        let failing = (1..=EACH).map(move |number| (format!("fails{key}"), number));
        failing.chain((1..=4).map(move |number| (format!("passes{key}"), number)))
    };
    bench.publish_all((0..keys).flat_map(of_one).collect()).await;
    eprintln!("{keys} keys published after {:?}", begun.elapsed());
    let failing = usize::try_from(keys * EACH).unwrap();
    // At most 16 of a lane wait behind failing ones, which are 16 at most, too.
    bench.until("all but a few of each lane are parked", async || bench.parked().await + 8 * 32 >= failing).await;
    let parked = bench.parked().await;
    eprintln!("{keys} keys: {parked} parked after {:?}, peak {} KiB", begun.elapsed(), sidecar.peak());
    bench.fail(false);
    let begun = Instant::now();
    bench.until_handled(usize::try_from(keys * (EACH + 4)).unwrap()).await;
    eprintln!("all delivered after {:?} more, peak {} KiB", begun.elapsed(), sidecar.peak());
    let came = by_key(&bench);
    assert!(came.values().all(|numbers| numbers.is_sorted()), "{came:?}");
    bench.until("the shelf is empty", async || bench.parked().await == 0).await;
    drop(sidecar);
}
