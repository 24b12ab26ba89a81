//! The whole program: listeners, certificate, connection; and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tidegate_broker_client::contract;
use tidegate_broker_client::identity::{self, Unreadable};
use tidegate_broker_client::wake::{self, Wake};
use tidegate_wire::nats::{Client, SubscribeError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admin::{self, Health};
use crate::admission::Admission;
use crate::auth::Auth;
use crate::commit::Pool;
use crate::config::Limits;
use crate::connection::Http;
use crate::metrics::Instruments;
use crate::mqtt::Mqtt;
use crate::server::{Protocol, Server, listen};
use crate::tls::Certificates;
use crate::topics::{ServingAnswers, Shared, Topics, TopicsFile};
use crate::{audit, broker, nats, routes};

/// How long the broker may take to say that it has what the client still held.
const FLUSH: Duration = Duration::from_secs(2);
/// Where this pod's name is: set by the operator, else the host's name.
const POD: [&str; 2] = ["K8S_POD_NAME", "HOSTNAME"];
/// Connections to the admin listener.
const ADMIN_CONNECTIONS: usize = 64;
/// A probe is over in this time: a connection to the admin listener that is older makes room for the next one.
const ADMIN_UNUSED: Duration = Duration::from_secs(1);

/// Why the ingress does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's certificate or the identity for the broker cannot be used.
    #[error(transparent)]
    Identity(#[from] Unreadable),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The client refuses to listen for publishers over NATS.
    #[error("NATS: {0}")]
    Listen(#[from] SubscribeError),
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
    https: Server<Http<routes::Routes>>,
    mqtt: Server<Mqtt>,
    nats: nats::Listener,
    serving: ServingAnswers,
    file: TopicsFile,
    topics: Arc<Topics>,
    admin: Server<Http<admin::Routes>>,
    health: Arc<Health>,
    certificates: Arc<Certificates>,
    client: Client,
    wake: Wake,
    limits: Limits,
}

impl Ingress {
    /// Reads the certificate, opens all ports and starts to connect to the broker.
    ///
    /// # Errors
    /// See [`Error`]. A broker that is not there is none.
    pub async fn bind(config: &contract::Ingress, limits: Limits) -> Result<Self, Error> {
        let limits = limits.with_capacity(config.capacity);
        let certificates = Certificates::load(&config.identity, &config.certificates)?;
        let client = broker::connect(config)?;
        let topics = Topics::new(shared(config, client.clone(), &limits));
        let mut file = TopicsFile::new(&config.topics, Arc::clone(&topics));
        // Without it there is nothing to serve yet, and everything else works.
        file.check();

        let cas = &topics.shared.auth.client_cas;
        let tls = Some((certificates.acceptor(&["h2", "http/1.1"], cas)?, Arc::clone(cas)));
        let admission = Arc::clone(&topics.shared.admission);
        let answers = routes::Routes(Arc::clone(&topics));
        let http = Http { answers, tls, limits: limits.clone(), admission: Arc::clone(&admission) };
        let https = serve(config.https_port, http, limits.connections, limits.unused).await?;
        let mqtt = Mqtt::new(Arc::clone(&topics), certificates.acceptor(&["mqtt"], &topics.shared.auth.client_cas)?);
        let mqtt = serve(config.mqtt_port, mqtt, limits.connections, limits.unused).await?;
        let publishers = broker::connect_publishers(config)?;
        let nats = nats::Listener::new(publishers.clone(), Arc::clone(&topics))?;
        let serving = ServingAnswers::new(Arc::clone(&topics), Arc::clone(&certificates))?;

        let health = Arc::new(Health::new(client.clone(), publishers, &config.broker_monitor));
        let answers = admin::Routes(Arc::clone(&health));
        let http = Http { answers, tls: None, limits: limits.clone(), admission };
        let admin = serve(config.admin_port, http, ADMIN_CONNECTIONS, ADMIN_UNUSED).await?;
        let wake = Wake { address: config.broker_wake.clone(), identity: identity::wake_folder(&config.identity) };
        Ok(Self { https, mqtt, nats, serving, file, topics, admin, health, certificates, client, wake, limits })
    }

    /// Where HTTPS is served.
    ///
    /// # Errors
    /// The listener has no address any more.
    pub fn https_address(&self) -> io::Result<SocketAddr> {
        self.https.listener.local_addr()
    }

    /// Where MQTT is served.
    ///
    /// # Errors
    /// The listener has no address any more.
    pub fn mqtt_address(&self) -> io::Result<SocketAddr> {
        self.mqtt.listener.local_addr()
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
        let Self { https, mqtt, nats, serving, file, topics, admin, health, certificates, client, wake, limits } = self;
        // First of all: the broker beside it waits for that when it starts.
        let _wake = AbortOnDropHandle::new(tokio::spawn(wake::keep(wake)));
        let stop = topics.shared.stop.clone();
        let _file = AbortOnDropHandle::new(tokio::spawn(file.watch(limits.topics_check)));
        let _audit = AbortOnDropHandle::new(tokio::spawn(audit::write_periodically(Arc::clone(&topics))));
        let _serving = AbortOnDropHandle::new(tokio::spawn(serving.run()));
        let interval = limits.certificate_check;
        let _watch = AbortOnDropHandle::new(tokio::spawn(async move { certificates.watch(interval).await }));
        let watched = Arc::clone(&health);
        let _health = AbortOnDropHandle::new(tokio::spawn(async move { watched.watch().await }));
        let _admin = AbortOnDropHandle::new(tokio::spawn(admin.run(CancellationToken::new())));
        let listeners = [
            tokio::spawn(https.run(stop.clone())),
            tokio::spawn(mqtt.run(stop.clone())),
            tokio::spawn(nats.run(stop.clone())),
        ];
        let listeners = join_all(listeners.into_iter().map(AbortOnDropHandle::new));

        leave.await;
        tracing::info!("draining: no longer ready");
        health.leave();
        tokio::time::sleep(limits.propagation).await;
        stop.cancel();
        topics.shared.movers.close();
        let ended = async { tokio::join!(listeners, topics.shared.movers.wait()) };
        if tokio::time::timeout(limits.drain, ended).await.is_err() {
            tracing::warn!("closing connections whose requests did not finish in time");
        }
        topics.write_audit();
        match tokio::time::timeout(FLUSH, client.flush()).await {
            Ok(Ok(())) => tracing::info!("drained"),
            Ok(Err(_)) | Err(_) => tracing::info!("drained, without a connection to the broker"),
        }
    }
}

/// What all topics share.
fn shared(config: &contract::Ingress, client: Client, limits: &Limits) -> Shared {
    Shared {
        client,
        server: config.servers.first().and_then(|url| tidegate_telemetry::Server::parse(url)),
        flush_of_one: config.flush,
        flush: watch::Sender::new(config.flush),
        pod: POD.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default().into(),
        volume: config.volume.clone(),
        admission: Arc::new(Admission::new(limits)),
        auth: Auth::new(),
        instruments: Arc::new(Instruments::new()),
        pool: Arc::new(Pool::new(limits)),
        stop: CancellationToken::new(),
        movers: TaskTracker::new(),
        limits: limits.clone(),
    }
}

async fn serve<P: Protocol>(port: u16, protocol: P, connections: usize, unused: Duration) -> Result<Server<P>, Error> {
    let listener = listen(port).await.map_err(|error| Error::Port { port, error })?;
    Ok(Server { listener, protocol, connections, unused })
}
