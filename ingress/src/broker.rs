//! The connections to the broker.

use async_nats::{Client, ConnectOptions, Event};
use tidegate_broker_client::{connect, contract, identity};

/// Bytes of requests over NATS that may wait for their turn.
const WAITING: usize = 64 << 20;

/// The connection that events leave by. It is made in the background: the ingress starts before or after its broker,
/// and answers 503 meanwhile.
///
/// # Errors
/// The identity cannot be read, or the addresses make no sense.
pub async fn connect(config: &contract::Ingress) -> Result<Client, connect::ConnectError> {
    start(config, options(config, "")?).await
}

/// The connection that publishers over NATS come by.
///
/// # Errors
/// As [`connect`].
pub async fn connect_publishers(config: &contract::Ingress) -> Result<Client, connect::ConnectError> {
    // What is more is dropped by the client library, and its publisher asks again.
    let options = options(config, " publishers")?.subscription_capacity(4096).subscription_bytes(WAITING);
    start(config, options).await
}

fn options(config: &contract::Ingress, of: &str) -> Result<ConnectOptions, identity::Unreadable> {
    let name = format!("tidegate-ingress {}/{}{of}", config.namespace, config.topic);
    connect::options(&name, identity::folder(&config.identity))
}

async fn start(config: &contract::Ingress, options: ConnectOptions) -> Result<Client, connect::ConnectError> {
    let options = options.retain_servers_order().retry_on_initial_connect();
    let client = options.event_callback(|event| async move { report(&event) }).connect(&config.servers).await?;
    Ok(client)
}

fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to the broker"),
        Event::Disconnected => tracing::warn!("lost the connection to the broker"),
        Event::ServerError(error) => tracing::warn!(%error, "the broker reported an error"),
        Event::ClientError(error) => tracing::warn!(%error, "cannot reach the broker"),
        other => tracing::debug!(event = %other, "the connection to the broker changed"),
    }
}
