//! The connection to the broker: made sooner or later, mended by itself, its state told to who asks.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tidegate_broker_client::connect::{self, ConnectError};
use tidegate_broker_client::contract::Sidecar;
use tidegate_broker_client::identity::{self, Source};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::ops::health::Health;
use crate::settle::backoff::Backoff;

/// Messages the subscription of a pull may hold beyond the events asked for: status messages.
const STATUS_ROOM: usize = 1024;
const RETRIES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(2), factor: 2.0, jitter: 0.2 };

/// The state of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub connected: bool,
    /// Its number: every new one has another.
    pub epoch: u64,
}

/// Connects, however long it takes, and returns the client with the state of its connection.
pub async fn connect(config: &Sidecar, health: &Health) -> (Client, watch::Receiver<Link>) {
    let source = identity::folder(&config.identity);
    let (state, link) = watch::channel(Link::default());
    let (mut failures, mut told) = (0, String::new());
    loop {
        // That it takes long is no lack of progress.
        health.beat();
        match attempt(config, source.clone(), &state, health).await {
            Ok(client) => return (client, link),
            Err(error) => {
                let error = error.to_string();
                if error != told {
                    tracing::warn!(%error, servers = ?config.servers, "no connection to the broker yet: trying on");
                    told = error;
                }
            }
        }
        failures += 1;
        sleep(RETRIES.wait(failures, fastrand::f64())).await;
    }
}

async fn attempt(
    config: &Sidecar,
    source: Source,
    state: &watch::Sender<Link>,
    health: &Health,
) -> Result<Client, ConnectError> {
    let name = format!("tidegate-sidecar {}/{}", config.namespace, config.handler);
    let options = connect::options(&name, source)?;
    if !health.has_started() {
        health.started();
    }
    let options = options.subscription_capacity(config.delivery.slots() + STATUS_ROOM);
    Ok(observed(options, state.clone()).connect(&config.servers).await?)
}

fn observed(options: ConnectOptions, state: watch::Sender<Link>) -> ConnectOptions {
    options.event_callback(move |event| {
        note(&event, &state);
        async {}
    })
}

fn note(event: &Event, state: &watch::Sender<Link>) {
    match event {
        Event::Connected => {
            state.send_modify(|link| *link = Link { connected: true, epoch: link.epoch + 1 });
            tracing::info!("connected to the broker");
        }
        Event::Disconnected | Event::Closed => {
            state.send_modify(|link| link.connected = false);
            tracing::warn!("the connection to the broker is lost: reconnecting");
        }
        Event::ServerError(error) => tracing::warn!(%error, "the broker reports an error"),
        other => tracing::debug!(event = %other, "broker client"),
    }
}
