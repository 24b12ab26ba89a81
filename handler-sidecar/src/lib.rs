//! The sidecar of a handler: it takes the handler's events from the broker, with an identity of its own, and
//! posts each to the user's container beside it.
//!
//! ```text
//! line ──▶ discipline ──▶ attempt: decode ─▶ filter ─▶ attempts so far ─▶ deliver ─▶ outcome ─▶ disposition ──▶ settle
//! ```
//!
//! One room for each of these:
//!
//! - [`consume`]: how events are taken, when each may start, and one event's way to its disposition;
//! - [`broker`]: the connection, what pulls look like on it, and the other sidecars of the handler;
//! - [`event`]: whether an event is for the handler, and its form as a request;
//! - [`deliver`]: whether the handler's container is available, and one request to it;
//! - [`settle`]: what becomes of an event after an attempt: the decision, attempts, replies, dead letters;
//! - [`ops`]: configuration, bounds, health, drain, metrics, traces, reports.

mod broker;
pub mod consume;
mod deliver;
mod event;
mod ops;
pub mod settle;

use std::net::Ipv4Addr;
use std::sync::Arc;

use tidegate_broker_client::contract::{Order, Routing, Sidecar};
use tidegate_broker_client::identity;
use tidegate_broker_client::renewal::Renewal;
use tidegate_delivery_core::lane::timing::LaneTiming;
use tidegate_delivery_core::{ByKey, Direct, Discipline, Unordered, millis};
use tokio::net::TcpListener;
use tokio::sync::watch;

use tidegate_wire::nats::Link;

use crate::broker::connection;
use crate::broker::members::Members;
use crate::broker::suspension;
use crate::consume::process::Context;
use crate::consume::runner::{self, Shares};
use crate::consume::workload::WorkloadMeter;
use crate::deliver::availability::Availability;
use crate::deliver::loopback::Loopback;
use crate::deliver::post::Handler;
use crate::ops::admin::{self, Admin};
use crate::ops::budget::ByteBudget;
use crate::ops::drain::Drain;
use crate::ops::health::Health;
use crate::ops::metrics::Metrics;
use crate::ops::options::{self, Options};
use crate::ops::trace::Traces;
use crate::ops::{config, report};
use crate::settle::attempts::store::Attempts;
use crate::settle::outcome_log::OutcomeLog;
use crate::settle::shelf::Shelf;

pub use crate::ops::config::{drained_within, from_environment};

/// Why the sidecar cannot run. A missing broker or handler is no reason: it waits for them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The path of the handler.
    #[error("delivery.path: {0}")]
    Path(#[from] http::Error),
    /// What else the handler asks for.
    #[error(transparent)]
    Options(#[from] options::Error),
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
    let health = Arc::new(Health::default());
    let (drains, drain) = watch::channel(Drain::default());
    let admin = Admin { health: health.clone(), drain, limit: config::drain_limit(&config) + config::MARGIN };
    let availability = Arc::new(Availability::new(Loopback::from(&config.delivery), config.probes.clone()));
    let stopped = async {
        stop.await;
        let drain = drains.borrow().clone();
        drain.begin();
        drain.finished().await;
    };
    tokio::select! {
        () = admin::serve(listener, admin) => Ok(()),
        () = availability.watch() => Ok(()),
        // Boxed: it is large, and would be part of every caller.
        worked = Box::pin(work(&config, &availability, &health, &drains)) => worked,
        () = stopped => Ok(()),
    }
}

/// Works, and after a drain waits to be stopped. A drained pod is ended soon; one that is still there well after its
/// grace period was not meant to end, so its events would wait for nothing: it goes to work again.
async fn work(
    config: &Sidecar,
    availability: &Arc<Availability>,
    health: &Arc<Health>,
    drains: &watch::Sender<Drain>,
) -> Result<(), Error> {
    loop {
        let drain = drains.borrow().clone();
        let over = async {
            drain.begun_for(config.resume_after).await;
            Ok::<(), Error>(())
        };
        tokio::try_join!(work_until_drained(config.clone(), availability, health, &drain), over)?;
        tracing::warn!("delivering events again: the pod was drained, but not ended");
        drains.send_replace(Drain::default());
    }
}

/// Connects and works until it is drained.
async fn work_until_drained(
    config: Sidecar,
    availability: &Arc<Availability>,
    health: &Arc<Health>,
    drain: &Drain,
) -> Result<(), Error> {
    let handler = Handler::new(&config.delivery, config.routing, ByteBudget::default())?;
    // Alone, until somebody else is heard of.
    let count = watch::Sender::new(1);
    let options = Options::new(&config, &handler, drain, count.subscribe())?;
    let members = Members::new(count);
    let renewal = Renewal::new(identity::folder(&config.identity));
    let connected = tokio::select! {
        connected = connection::connect(&config, renewal.source(), health) => Some(connected),
        () = drain.begun() => None,
    };
    if let Some(client) = connected {
        let link = client.link();
        let (metrics, traces) = (Metrics::new(&config), Traces::new(&config));
        let attempts = Attempts::new(client.clone(), config.handler.clone(), config.incarnation());
        let shelf = Shelf::new(client.clone(), &config.handler, config.incarnation());
        let (availability, drain, budget) = (availability.clone(), drain.clone(), handler.budget().clone());
        let (workload, another_is_able) = (WorkloadMeter::default(), members.another_is_able());
        let outcomes = OutcomeLog::new(handler.url());
        let context = Context {
            config,
            client,
            handler,
            availability,
            attempts,
            shelf,
            options,
            budget,
            drain,
            metrics,
            traces,
            workload,
            another_is_able,
            outcomes,
        };
        let context = Arc::new(context);
        let reports = report::run(&context);
        let is_suspended = watch::Sender::new(false);
        let has_lanes = matches!(context.config.delivery.order, Order::Key { .. });
        tokio::select! {
            () = serve(context.clone(), &members, is_suspended.subscribe(), health.clone(), link) => {}
            () = suspension::follow(&context, &is_suspended), if has_lanes => {}
            // What is not kept cannot be given to another one.
            () = members.run(&context), if context.config.routing == Routing::Queued => {}
            () = reports => {}
            () = renewal.follow(&context.client) => {}
        }
    }
    drain.finish();
    Ok(())
}

/// Takes the handler's events, in the way that they travel, until it is drained.
async fn serve(
    context: Arc<Context>,
    members: &Members,
    is_suspended: watch::Receiver<bool>,
    health: Arc<Health>,
    link: watch::Receiver<Link>,
) {
    let (config, mut shares) = (&context.config, None);
    let slots = config.delivery.slots();
    let discipline: Box<dyn Discipline + Send> = match (config.routing, config.delivery.order) {
        (Routing::Queued, Order::None) => {
            let (ack_wait, renew_every) = (millis(config.ack_wait), millis(config::renew_every(config)));
            Box::new(Unordered::new(slots, ack_wait, renew_every, fastrand::u64(..)))
        }
        (Routing::Queued, Order::Key { lanes }) => {
            shares = Some(Shares::new(members, lanes, is_suspended));
            Box::new(ByKey::new(slots, LaneTiming::of(config.ack_wait), context.client.max_payload()))
        }
        (Routing::Direct, _) => Box::new(Direct::new(slots)),
    };
    runner::run(context, health, link, discipline, shares).await;
}
