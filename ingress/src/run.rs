//! The whole program: listeners, certificate, connection; and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use tidegate_broker_client::connect::ConnectError;
use tidegate_broker_client::contract;
use tidegate_broker_client::identity::Unreadable;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{self, Health};
use crate::broker;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::routes::{self, Publishing};
use crate::server::{Server, listen};
use crate::tls::Certificate;

/// How long the client may take to send what it still holds.
const FLUSH: Duration = Duration::from_secs(2);
/// Connections to the admin listener.
const ADMIN_CONNECTIONS: usize = 64;

/// Why the ingress does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] Unreadable),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The identity or the addresses of the broker cannot be used.
    #[error(transparent)]
    Broker(#[from] ConnectError),
    /// A port cannot be listened on.
    #[error("port {port}: {error}")]
    Port {
        /// Which one.
        port: u16,
        /// Why.
        error: io::Error,
    },
}

/// An ingress that listens, and does not serve yet.
pub struct Ingress {
    https: Server,
    admin: Server,
    health: Arc<Health>,
    certificate: Arc<Certificate>,
    client: Client,
    limits: Limits,
}

impl Ingress {
    /// Reads the certificate, opens both ports and starts to connect to the broker.
    ///
    /// # Errors
    /// See [`Error`]. A broker that is not there is none.
    pub async fn bind(config: &contract::Ingress, limits: Limits) -> Result<Self, Error> {
        let certificate = Certificate::load(&config.identity)?;
        let tls = Some(certificate.acceptor()?);
        let client = broker::connect(config).await?;

        let metrics = Arc::new(Metrics::new(&config.topic));
        let publisher = Publisher::new(client.clone(), config.topic.clone(), limits.clone(), Arc::clone(&metrics));
        let publishing = Arc::new(Publishing::new(publisher, limits.clone(), config.max_event_size));
        let router = routes::router(publishing, metrics);
        let listener = open(config.https_port).await?;
        let https = Server { listener, tls, router, limits: limits.clone() };

        let health = Arc::new(Health::new(client.clone(), &config.broker_monitor));
        let router = admin::router(Arc::clone(&health));
        let admin_limits = Limits { connections: ADMIN_CONNECTIONS, ..limits.clone() };
        let listener = open(config.admin_port).await?;
        let admin = Server { listener, tls: None, router, limits: admin_limits };
        Ok(Self { https, admin, health, certificate, client, limits })
    }

    /// Where HTTPS is served.
    ///
    /// # Errors
    /// The listener has no address any more.
    pub fn https_address(&self) -> io::Result<SocketAddr> {
        self.https.listener.local_addr()
    }

    /// Where probes are answered.
    ///
    /// # Errors
    /// The listener has no address any more.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.listener.local_addr()
    }

    /// Serves until `leave` completes, and then ends in order: not ready; still taking requests while the
    /// cluster takes this pod out of its Services; ending the requests in progress; flushing.
    pub async fn run(self, leave: impl Future<Output = ()>) {
        let Self { https, admin, health, certificate, client, limits } = self;
        let stop = CancellationToken::new();
        let interval = limits.certificate_check;
        let _watch = AbortOnDropHandle::new(tokio::spawn(async move { certificate.watch(interval).await }));
        let _admin = AbortOnDropHandle::new(tokio::spawn(admin.run(CancellationToken::new())));
        let mut https = AbortOnDropHandle::new(tokio::spawn(https.run(stop.clone())));

        leave.await;
        tracing::info!("leaving: not ready any more");
        health.leave();
        tokio::time::sleep(limits.propagation).await;
        stop.cancel();
        if tokio::time::timeout(limits.drain, &mut https).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        match tokio::time::timeout(FLUSH, client.flush()).await {
            Ok(Ok(())) => tracing::info!("done"),
            Ok(Err(_)) | Err(_) => tracing::info!("done, without a connection to the broker"),
        }
    }
}

async fn open(port: u16) -> Result<tokio::net::TcpListener, Error> {
    listen(port).await.map_err(|error| Error::Port { port, error })
}
