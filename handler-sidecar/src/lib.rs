//! The sidecar of a handler: it takes the handler's events from the broker, with an identity of its own, and
//! posts each to the user's container beside it.
//!
//! ```text
//! pull ──▶ permit ──▶ process: decode ─▶ deliver ─▶ outcome ─▶ settle (acknowledge | retry | dead letter)
//! ```
//!
//! - [`pipeline`] is the task that does it, [`process`] one event's way through it;
//! - [`pull`] and [`in_hand`] are the broker's side, [`deliver`] and [`reachability`] the handler's;
//! - [`outcome`], [`backoff`], [`pull::status`], [`pull::window`] and [`delivery_info`] decide, and are pure;
//! - [`admin`], [`health`], [`drain`], [`metrics`] and [`trace`] are for those who run and watch it.

pub mod admin;
pub mod backoff;
pub mod broker;
pub mod config;
pub mod dead_letter;
pub mod deliver;
pub mod delivery_info;
pub mod drain;
pub mod health;
pub mod in_hand;
pub mod metrics;
pub mod outcome;
pub mod pipeline;
pub mod process;
pub mod pull;
pub mod reachability;
pub mod trace;

use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tidegate_broker_client::contract::Sidecar;
use tokio::net::TcpListener;

use crate::admin::Admin;
use crate::deliver::Handler;
use crate::drain::Drain;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::process::Context;
use crate::reachability::Reachability;

/// Why the sidecar cannot run. A missing broker or handler is no reason: it waits for them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The path of the handler.
    #[error("delivery.path: {0}")]
    Path(#[from] http::Error),
    /// The sidecar's own listener.
    #[error("admin listener on port {port}: {error}")]
    Listen {
        /// The port.
        port: u16,
        /// Why not.
        error: std::io::Error,
    },
    /// The handler of SIGTERM.
    #[error("signals: {0}")]
    Signal(std::io::Error),
}

/// Runs until `stop`, then drains and returns.
///
/// # Errors
/// The configuration cannot be used, or the listener fails.
pub async fn run(config: Sidecar, stop: impl Future<Output = ()>) -> Result<(), Error> {
    config::check(&config)?;
    let port = config.admin_port;
    let listen = |error| Error::Listen { port, error };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(listen)?;
    let (health, drain) = (Arc::new(Health::default()), Drain::default());
    let admin = Admin {
        health: health.clone(),
        drain: drain.clone(),
        token: config.drain_token.as_str().into(),
        limit: config::drain_limit(&config) + config::MARGIN,
    };
    let reachability = Arc::new(Reachability::new(config.delivery.port));
    let handler = Handler::new(&config.delivery)?;
    let stopped = async {
        stop.await;
        drain.begin();
        drain.finished().await;
    };
    tokio::select! {
        served = admin::serve(listener, admin) => served.map_err(listen),
        () = reachability.watch() => Ok(()),
        () = work(config, handler, &reachability, &health, &drain) => Ok(()),
        () = stopped => Ok(()),
    }
}

/// Connects and works; after the drain it only waits to be stopped.
async fn work(
    config: Sidecar,
    handler: Handler,
    reachability: &Arc<Reachability>,
    health: &Arc<Health>,
    drain: &Drain,
) {
    let connected = tokio::select! {
        connected = broker::connect(&config, health) => Some(connected),
        () = drain.begun() => None,
    };
    if let Some((client, link)) = connected {
        let metrics = Metrics::new(&config);
        let (reachability, drain) = (reachability.clone(), drain.clone());
        let context = Arc::new(Context { config, client, handler, reachability, drain, metrics });
        Pipeline::new(context, health.clone(), link).run().await;
    }
    drain.finish();
    pending().await
}
