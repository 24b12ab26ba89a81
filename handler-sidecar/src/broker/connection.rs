//! The connection to the broker: it is made however long that takes, and made again when it is lost.

use std::time::Duration;

use tidegate_broker_client::contract::{Delivery, Order, Sidecar};
use tidegate_broker_client::identity::{Source, Unreadable};
use tidegate_broker_client::layout::LANE_WINDOW;
use tidegate_broker_client::{connect, connection_log};
use tidegate_wire::nats::{Client, ConnectError, Options, QueueLimits};
use tokio::time::sleep;

use crate::ops::health::Health;
use crate::settle::backoff::Backoff;

/// Messages the subscription of a pull may hold beyond the events asked for: status messages.
const STATUS_ROOM: usize = 1024;
/// Answers that may wait for each event of a lane's window: to its acknowledgement and to its renewal.
const ANSWERS: usize = 2;
const RETRIES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(2), factor: 2.0, jitter: 0.2 };

/// Why there is no connection yet.
#[derive(Debug, thiserror::Error)]
enum Unconnected {
    #[error(transparent)]
    Identity(#[from] Unreadable),
    #[error("broker: {0}")]
    Broker(#[from] ConnectError),
}

/// Connects, however long it takes.
pub async fn connect(config: &Sidecar, source: Source, health: &Health) -> Client {
    let (mut failures, mut told) = (0, String::new());
    loop {
        // That it takes long is no lack of progress.
        health.beat();
        match attempt(config, source.clone(), health).await {
            Ok(client) => return client,
            Err(error) => {
                let error = error.to_string();
                if error != told {
                    tracing::warn!(%error, servers = ?config.servers, "cannot reach the broker yet: trying again");
                    told = error;
                }
            }
        }
        failures += 1;
        sleep(RETRIES.wait(failures, fastrand::f64())).await;
    }
}

async fn attempt(config: &Sidecar, source: Source, health: &Health) -> Result<Client, Unconnected> {
    let name = format!("tidegate-sidecar {}/{}", config.namespace, config.handler);
    let options = connect::options(&name, &config.servers, source)?;
    if !health.has_started() {
        health.started();
    }
    let queue = QueueLimits { messages: waiting(&config.delivery), ..options.queue };
    Ok(Client::connect(Options { queue, on_event: connection_log(), ..options }).await?)
}

/// How many messages may wait in a subscription: the events of a pull, or the answers for the events of all lanes.
fn waiting(delivery: &Delivery) -> usize {
    let of_lanes = match delivery.order {
        Order::Key { lanes } => usize::from(lanes) * usize::from(LANE_WINDOW) * ANSWERS,
        Order::None => 0,
    };
    delivery.slots().max(of_lanes) + STATUS_ROOM
}
