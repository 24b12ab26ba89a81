//! The connection to the broker.

use async_nats::{Client, Event};
use tidegate_broker_client::{connect, contract, identity};

/// Connects in the background: the ingress starts before or after its broker, and answers 503 meanwhile.
///
/// # Errors
/// The identity cannot be read, or the addresses make no sense.
pub async fn connect(config: &contract::Ingress) -> Result<Client, connect::ConnectError> {
    let name = format!("tidegate-ingress {}/{}", config.namespace, config.topic);
    let options = connect::options(&name, identity::folder(&config.identity))?;
    let client = options
        .retain_servers_order()
        .retry_on_initial_connect()
        .event_callback(|event| async move { report(&event) })
        .connect(&config.servers)
        .await?;
    Ok(client)
}

fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to the broker"),
        Event::Disconnected => tracing::warn!("the connection to the broker is lost"),
        Event::ServerError(error) => tracing::warn!(%error, "the broker reports an error"),
        Event::ClientError(error) => tracing::warn!(%error, "the broker cannot be reached"),
        other => tracing::debug!(event = %other, "broker connection"),
    }
}
