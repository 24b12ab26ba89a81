//! A handler's sidecars as processes, which come, go, are killed and are paused.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_client::contract::{Order, Sidecar};
use tidegate_broker_client::peer;
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{HANDLER, Process, config, free_port};

/// How long the broker may take to store an event, before it is stored again.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub order: Order,
    pub ack_wait: Duration,
    pub keys: u64,
    pub events: u64,
    /// How long publishing takes.
    pub time: Duration,
}

/// The sidecars.
pub struct Fleet {
    pub config: Sidecar,
    pub processes: Vec<Process>,
}

impl Fleet {
    /// A handler with its consumers; no sidecar yet.
    pub async fn new(broker: &TestBroker, run: &Run, port: u16) -> Self {
        let identity = handler(broker, run).await;
        let mut config = config(broker, identity, port, run.ack_wait);
        config.delivery.order = run.order;
        config.delivery.retry.max_attempts = 100;
        Self { config, processes: Vec::new() }
    }

    /// Starts sidecars, or ends the oldest gracefully, until there are so many.
    pub async fn scale(&mut self, replicas: usize) {
        while self.processes.len() < replicas {
            let config = Sidecar { admin_port: free_port(), ..self.config.clone() };
            self.processes.push(Process::start(&config).await);
        }
        while self.processes.len() > replicas {
            let status = self.processes.remove(0).terminate().await;
            assert!(status.success(), "{status}");
        }
    }

    /// Kills one (SIGKILL) and starts another in its place.
    pub async fn kill(&mut self) {
        let victim = fastrand::usize(0..self.processes.len());
        let replicas = self.processes.len();
        drop(self.processes.remove(victim));
        self.scale(replicas).await;
    }

    /// Pauses one for longer than the broker waits for it.
    pub async fn pause(&mut self) {
        let victim = self.processes[fastrand::usize(0..self.processes.len())].pid();
        kill(victim, Signal::SIGSTOP).unwrap();
        sleep(self.config.ack_wait + Duration::from_secs(1)).await;
        kill(victim, Signal::SIGCONT).unwrap();
    }
}

async fn handler(broker: &TestBroker, run: &Run) -> PathBuf {
    broker.handler_with(consumers_of(run)).await
}

/// Its consumers.
pub fn consumers_of(run: &Run) -> consumers::Handler {
    consumers::Handler {
        name: HANDLER.to_owned(),
        uid: format!("uid-{HANDLER}"),
        ack_wait: run.ack_wait,
        max_ack_pending: consumers::max_ack_pending(4, 16),
        types: Vec::new(),
        start: Start::Earliest,
        order: run.order,
        is_suspended: false,
        is_draining: false,
    }
}

/// Stores the events of all keys in turn, each key's in order, however often the broker is away meanwhile.
pub async fn publish_surely(jetstream: Context, run: Run) {
    let begun = Instant::now();
    for number in 1..=run.events {
        let store = async |key| {
            while !is_stored(&jetstream, key, number).await {
                sleep(PAUSE).await;
            }
        };
        join_all((0..run.keys).map(store)).await;
        let due = run.time.mul_f64(number as f64 / run.events as f64);
        sleep(due.saturating_sub(begun.elapsed())).await;
    }
}

async fn is_stored(jetstream: &Context, key: u64, number: u64) -> bool {
    let stored = async { send(jetstream, key, number).await?.await };
    matches!(timeout(ANSWER_LIMIT, stored).await, Ok(Ok(_)))
}

async fn send(jetstream: &Context, key: u64, number: u64) -> Result<PublishAckFuture, PublishError> {
    let id = format!("k{key}-{number}");
    let event = Event::builder(&id, "/order", "step").attribute("partitionkey", format!("k{key}"));
    let event = event.data("{}").build().unwrap();
    let (mut headers, payload) = peer::encode(&event);
    headers.insert("Nats-Msg-Id", format!("order {id}"));
    let partition = layout::partition(stored::partition_key(&event));
    let subject = layout::event_subject(partition, event.event_type());
    jetstream.publish_with_headers(subject, headers, payload).await
}

/// Stores the events of all keys in turn, each key's in order, evenly over the run's time.
pub async fn publish(jetstream: Context, run: Run) {
    let begun = Instant::now();
    for number in 1..=run.events {
        let mut acknowledgements = Vec::new();
        for key in 0..run.keys {
            acknowledgements.push(send(&jetstream, key, number).await.unwrap());
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await.unwrap();
        }
        let due = run.time.mul_f64(number as f64 / run.events as f64);
        sleep(due.saturating_sub(begun.elapsed())).await;
    }
}
