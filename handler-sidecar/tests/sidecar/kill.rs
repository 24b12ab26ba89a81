//! A sidecar that is killed at each point of an event's way: nothing is lost, and no more comes twice than was in
//! flight or had its acknowledgement on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use crate::support::{
    Container, HANDLER, Process, all_settled, config, dead_letters, eventually, free_port, header, publish, publish_all,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate_broker_client::layout;
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

const ACK_WAIT: Duration = Duration::from_secs(3);
const CONCURRENCY: usize = 16;

#[tokio::test]
async fn after_the_pull() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let port = free_port();
    let config = config(&broker, identity, port, ACK_WAIT);
    let container = Container::at(port, |_| (204, Duration::ZERO)).await;
    let first = Process::start(&config).await;
    publish(&broker, "before").await;
    all_settled(&broker).await;
    // What is pulled from now on waits here.
    drop(container);
    let ids = publish_all(&broker, (0..40).map(|i| i.to_string())).await;
    eventually("some are in flight", async || crate::support::in_flight(&broker).await > 0).await;
    drop(first);
    let container = Container::at(port, |_| (204, Duration::ZERO)).await;
    let _second = Process::start(&config).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), ids.len(), "each once");
    assert_eq!(container.ids().into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
}

/// Kills the sidecar in this pid once it has sent so many events.
fn killer(pid: &Arc<AtomicI32>, when: usize, signal: Signal) -> impl Fn() + Send + Sync + 'static {
    let (pid, sent) = (pid.clone(), std::sync::atomic::AtomicUsize::new(0));
    move || {
        if sent.fetch_add(1, Ordering::SeqCst) + 1 == when {
            kill(Pid::from_raw(pid.load(Ordering::SeqCst)), signal).unwrap();
        }
    }
}

/// Kills at the 50th of 300 events, either with its request in the handler's hands, or stopped so that the answer is
/// on its way and cannot be acknowledged any more.
async fn killed_at_work(signal: Signal) {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let pid = Arc::new(AtomicI32::new(0));
    let strike = killer(&pid, 50, signal);
    let container = Container::answering(move |_| {
        strike();
        (204, Duration::ZERO)
    })
    .await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let first = Process::start(&config).await;
    pid.store(first.pid().as_raw(), Ordering::SeqCst);
    let ids = publish_all(&broker, (0..300).map(|i| i.to_string())).await;
    eventually("it was struck", async || container.count() >= 50).await;
    // The answers are written meanwhile.
    sleep(Duration::from_millis(300)).await;
    drop(first);
    let struck = container.count();
    assert!(struck < ids.len(), "there is something left");
    let _second = Process::start(&config).await;
    all_settled(&broker).await;
    assert_eq!(container.ids().into_iter().collect::<BTreeSet<_>>(), ids.iter().cloned().collect(), "lost");
    let twice = container.count() - ids.len();
    // What was in flight, and what had been answered while its acknowledgement was still to be written.
    assert!((1..=2 * CONCURRENCY).contains(&twice), "{twice} came twice");
    assert!(dead_letters(&broker).await.is_empty());
}

#[tokio::test]
async fn during_the_post() {
    killed_at_work(Signal::SIGKILL).await;
}

#[tokio::test]
async fn after_the_answer_and_before_the_acknowledgement() {
    killed_at_work(Signal::SIGSTOP).await;
}

/// The letter cannot be stored until the sidecar is dead; the next one stores it, without another attempt.
#[tokio::test]
async fn while_an_event_is_dead_lettered() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let context = broker.jetstream();
    let stream = context.get_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let settings = stream.cached_info().config.clone();
    context.delete_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let container = Container::answering(|_| (422, Duration::ZERO)).await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let first = Process::start(&config).await;
    publish_all(&broker, (0..5).map(|i| i.to_string())).await;
    eventually("they are refused", async || container.count() == 5).await;
    eventually("that is on record", async || {
        context.get_stream(layout::attempt_stream(HANDLER)).await.unwrap().cached_info().state.messages == 5
    })
    .await;
    drop(first);
    assert_eq!(crate::support::in_flight(&broker).await, 5);
    context.create_stream(settings).await.unwrap();
    let _second = Process::start(&config).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), 5, "nothing was tried again");
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 5);
    for letter in &letters {
        assert_eq!(header(letter, "Tidegate-Reason"), "refused-by-handler");
        assert_eq!(header(letter, "Tidegate-Last-Status"), "422");
        assert_eq!(header(letter, "Tidegate-Attempts"), "1");
    }
}

/// SIGTERM at full load, again and again: nothing comes twice.
#[tokio::test]
async fn a_graceful_end_at_full_load() {
    let ack_wait = Duration::from_secs(10);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ack_wait).await;
    let container = Container::answering(|_| (204, Duration::from_millis(2))).await;
    let mut config = config(&broker, identity, container.port, ack_wait);
    let ids = publish_all(&broker, (0..4000).map(|i| i.to_string())).await;
    for round in 1..=4 {
        config.admin_port = free_port();
        let process = Process::start(&config).await;
        eventually("it is at work", async || container.count() > round * 300).await;
        assert!(process.terminate().await.success());
    }
    assert!(container.count() < ids.len(), "each ended under load");
    config.admin_port = free_port();
    let _last = Process::start(&config).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), ids.len(), "some came twice");
}
