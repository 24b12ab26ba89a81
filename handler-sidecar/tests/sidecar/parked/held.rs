//! `onExhausted: Park`: a key whose event is out of attempts waits for a person.

use std::time::Duration;

use tidegate_broker_client::contract::OnExhausted;
use tidegate_broker_client::layout;
use tidegate_delivery_core::lane::MAX_KEYS;
use tokio::time::Instant;

use super::{Bench, CALM, Patience, handled};
use crate::support::{HANDLER, Running, dead_letters};

/// A handler with one lane that gives an event two attempts. All events of keys that begin with `fails` fail.
async fn start() -> Bench {
    let patience = Patience { wait: Duration::from_millis(100), attempts: 2 };
    let mut bench = Bench::start(1, CALM, patience).await;
    bench.config.delivery.on_exhausted = OnExhausted::Park;
    bench.fail(true);
    bench
}

#[tokio::test]
async fn a_key_that_is_out_of_attempts_is_held_until_it_is_released() {
    let bench = start().await;
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=40).await;
    let mark = layout::held_subject(HANDLER, 0, layout::key_digest("fails"));
    bench.until("the key is held", async || bench.held().await == [mark.as_str()]).await;
    bench.until("all but a few are parked", async || bench.parked().await > 40 - 16).await;
    bench.fail(false);
    bench.publish("passes", 0..=40).await;
    bench.until_handled(41).await;
    assert_eq!((handled(&bench, "fails").len(), bench.count()), (0, 41 + 2), "two attempts, and none since");
    assert_eq!(dead_letters(&bench.broker).await.len(), 0);
    bench.release().await;
    bench.until_handled(82).await;
    bench.until_empty().await;
    assert_eq!(handled(&bench, "fails"), (0..=40).collect::<Vec<_>>());
    assert!(bench.held().await.is_empty());
    sidecar.terminate().await;
}

/// Released, it begins as if it had never failed: with all its attempts.
#[tokio::test]
async fn a_released_event_that_fails_again_is_held_again() {
    let bench = start().await;
    let sidecar = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=1).await;
    bench.until("the key is held", async || bench.held().await.len() == 1).await;
    assert_eq!(bench.count(), 2);
    bench.release().await;
    bench.until("it is tried again", async || bench.count() > 2).await;
    bench.until("the key is held again", async || bench.held().await.len() == 1).await;
    assert_eq!((bench.count(), dead_letters(&bench.broker).await.len()), (4, 0));
    sidecar.terminate().await;
}

/// Nor does the next owner deliver anything of it, and the others continue there, too.
#[tokio::test]
async fn a_held_key_does_not_hold_up_its_neighbours() {
    let bench = start().await;
    let first = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=0).await;
    bench.until("the key is held", async || bench.held().await.len() == 1).await;
    // More than the lane has room for.
    bench.publish("fails", 1..=600).await;
    bench.publish("passes", 0..=200).await;
    bench.until_handled(201).await;
    first.terminate().await;
    bench.fail(false);
    let second = Running::ready(bench.another()).await;
    bench.publish("passes", 201..=300).await;
    bench.until_handled(301).await;
    assert_eq!(handled(&bench, "passes"), (0..=300).collect::<Vec<_>>());
    assert!(bench.parked().await > 600 - 16, "nothing of the key is delivered");
    bench.release().await;
    bench.until_handled(902).await;
    assert_eq!(handled(&bench, "fails"), (0..=600).collect::<Vec<_>>());
    second.terminate().await;
}

/// A person who removes what is parked of a held key has not released it: the mark holds the key, and so do the next
/// owner and the next events.
#[tokio::test]
async fn a_held_key_whose_parked_events_are_removed_is_held_until_it_is_released() {
    let bench = start().await;
    let first = Running::ready(bench.config.clone()).await;
    bench.publish("fails", 0..=0).await;
    bench.until("the key is held", async || bench.held().await.len() == 1).await;
    first.terminate().await;
    bench.purge_parked().await;
    bench.fail(false);
    let second = Running::ready(bench.another()).await;
    bench.publish("fails", 1..=1).await;
    // While these come, the owner asks what is parked of the key of that event.
    for number in 1..=20 {
        bench.publish("passes", number..=number).await;
        bench.until("others pass", async || handled(&bench, "passes").len() as u64 >= number).await;
    }
    assert_eq!((handled(&bench, "fails"), bench.held().await.len()), (vec![], 1));
    bench.release().await;
    bench.until("it continues", async || handled(&bench, "fails") == [1]).await;
    bench.until_empty().await;
    second.terminate().await;
}

/// More keys of the lane are held than its owner can know. It finds which are released, those before that it began and
/// those after; and of a key that is held it delivers nothing, known or not.
#[tokio::test]
async fn a_release_is_noticed_however_many_keys_are_held() {
    // In the order of the keys it is before the others.
    let in_front = |key: &String| layout::key_digest(key) >> 60 == 0;
    let [one, other] = &(0..).map(|number| format!("fails{number}")).filter(in_front).take(2).collect::<Vec<_>>()[..]
    else {
        unreachable!()
    };
    let bench = start().await;
    let first = Running::ready(bench.config.clone()).await;
    bench.publish(one, 0..=1).await;
    bench.until("the first key is held", async || bench.held().await.len() == 1).await;
    // Without a success in between the handler would be down, and no attempt would count.
    bench.publish("passes", 0..=0).await;
    bench.until_handled(1).await;
    bench.publish(other, 0..=1).await;
    bench.until("the other one is held", async || bench.held().await.len() == 2).await;
    first.terminate().await;
    let count = MAX_KEYS as u64 + 100;
    bench.hold_all((0..count).map(|number| (number % 15 + 1) << 60 | number)).await;
    bench.release_key(one).await;
    bench.fail(false);
    let second = Running::ready(bench.another()).await;
    bench.publish(other, 2..=2).await;
    bench.publish("passes", 1..=1).await;
    let begun = Instant::now();
    bench.until("the one that was released continues", async || handled(&bench, one).len() == 2).await;
    eprintln!("found within {:?} among {count}", begun.elapsed());
    bench.until("others pass", async || handled(&bench, "passes") == [0, 1]).await;
    assert!(handled(&bench, other).is_empty(), "it is held");
    let begun = Instant::now();
    bench.release_key(other).await;
    bench.until("the other one continues", async || handled(&bench, other).len() == 3).await;
    eprintln!("its release was noticed within {:?}", begun.elapsed());
    assert_eq!((handled(&bench, one), handled(&bench, other)), (vec![0, 1], vec![0, 1, 2]));
    second.terminate().await;
}
