//! The connections to the broker.

use tidegate_broker_client::identity::{self, Unreadable};
use tidegate_broker_client::{connect, connection_log, contract};
use tidegate_wire::nats::{Client, Offline, Options, QueueLimits, ServerOrder};

/// Acknowledgements that may wait for their turn: more than there are publishes under way.
const ANSWERS: usize = 1 << 16;
/// Requests over NATS that may wait for their turn. What is more is dropped, and its publisher asks again.
const REQUESTS: QueueLimits = QueueLimits { messages: 4096, bytes: 64 << 20 };

/// The connection that events leave by. It is made in the background: the ingress starts before or after its broker,
/// and answers 503 meanwhile. What has no connection is refused: it must not be sent after its publisher heard no.
///
/// # Errors
/// The identity cannot be read.
pub fn connect(config: &contract::Ingress) -> Result<Client, Unreadable> {
    let options = options(config, "")?;
    let queue = QueueLimits { messages: ANSWERS, ..options.queue };
    Ok(Client::start(Options { offline: Offline::Refuse, queue, ..options }))
}

/// The connection that publishers over NATS come by. An answer to one of them waits for the next connection.
///
/// # Errors
/// As [`connect`].
pub fn connect_publishers(config: &contract::Ingress) -> Result<Client, Unreadable> {
    Ok(Client::start(Options { queue: REQUESTS, ..options(config, " publishers")? }))
}

/// The broker beside this ingress comes first in the configuration, and is preferred.
fn options(config: &contract::Ingress, of: &str) -> Result<Options, Unreadable> {
    let name = format!("tidegate-ingress {}/{}{of}", config.namespace, config.broker);
    let options = connect::options(&name, &config.servers, identity::ingress_folder(&config.identity))?;
    Ok(Options { order: ServerOrder::Given, on_event: connection_log(), ..options })
}
