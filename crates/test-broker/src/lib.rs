//! A real nats-server for tests: operator mode, mutual TLS, topics with their accounts and streams, as the operator sets
//! it up. Where a test does not say which topic it means, it is [`topic_id`].
//!
//! The server's binary is named by `NATS_SERVER`, else found on `PATH`. Tests reach it on loopback, and it ends with
//! its [`TestBroker`]. Usually it is one server; [`TestBroker::start_cluster`] starts three.

#![allow(clippy::expect_used, clippy::missing_panics_doc)] // a test support: it fails by panicking

pub mod cluster;
mod door;
mod files;
mod formation;
mod growth;
mod guests;
pub mod hostile;
mod node;
mod ports;
mod topics;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::server::{JetStream, Server};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_admin::{Authority, Usage};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::identity::{Identity, Source};
use tidegate_broker_client::{TopicId, connect, peer};
use tidegate_wire::nats;
use time::OffsetDateTime;
use tokio::sync::OnceCell;

pub use crate::door::Door;
pub use crate::files::{ConsumersOnDisk, flip_bytes, halve};
use crate::files::{request, write_leaf};
use crate::formation::Keeper;
use crate::node::Node;
pub use crate::ports::free_port;
pub use crate::topics::TopicHandle;
pub use crate::wait::{LIMIT, answer, consumers, eventually, jetstream};

/// What a server may store and take, where a test does not say.
#[derive(Clone, Copy)]
struct Bounds {
    /// Bytes of a message.
    max_payload: usize,
    /// Bytes in all.
    file_store: u64,
    /// Each write is on the disk before it is acknowledged.
    sync_always: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_payload: 4 << 20, file_store: 1 << 30, sync_always: false }
    }
}

/// What the servers are called, with a number each, where a test does not say.
const NAME: &str = "test";

/// How long a request of the operator's waits for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A running broker. It begins with the topic [`topic_id`].
pub struct TestBroker {
    authority: Authority,
    /// All topics that it has, in the order in which they came.
    topics: Mutex<Vec<(TopicId, Routing)>>,
    /// At least one.
    nodes: Vec<Node>,
    /// Those of them to which there are routes, and those that are to run: fewer while servers come and go.
    routed: usize,
    pods: usize,
    /// What wakes them, as their ingresses do.
    keepers: Vec<Keeper>,
    has_storage: bool,
    operator: Option<async_nats::Client>,
    /// Connected as soon as it is asked for.
    ingress: OnceCell<async_nats::Client>,
    admin: Option<nats::Client>,
    bounds: Bounds,
    folder: TempDir,
}

/// The name of the topic that every test broker has.
///
/// # Panics
/// Never.
pub fn topic_id() -> TopicId {
    TopicId::new("test", "topic").expect("two labels")
}

/// The topic that [`TestBroker::start`] makes.
pub fn topic() -> Topic {
    Topic {
        replicas: 1,
        keeps_copies: false,
        max_bytes: 256 << 20,
        dead_letter_bytes: 64 << 20,
        retry_bytes: 64 << 20,
        attempt_bytes: 16 << 20,
        later: None,
        max_age: None,
        drop_oldest: false,
        deduplication_window: Duration::from_secs(120),
        max_message_size: 2 << 20,
    }
}

impl TestBroker {
    /// Starts a broker with the streams of [`topic`].
    pub async fn start() -> Self {
        Self::start_with(topic()).await
    }

    /// Starts a broker with the streams of this topic.
    pub async fn start_with(topic: Topic) -> Self {
        Self::start_within(topic, Bounds::default()).await
    }

    /// The same; no message, the operator's own requests included, may have more than this many bytes.
    pub async fn start_bounded(topic: Topic, max_payload: usize) -> Self {
        Self::start_within(topic, Bounds { max_payload, ..Bounds::default() }).await
    }

    /// Starts a broker with `durability: Fsync`, the product's default: an acknowledged event is on the disk. It has as
    /// many servers as the topic has copies.
    pub async fn start_fsync(topic: Topic) -> Self {
        let bounds = Bounds { sync_always: true, ..Bounds::default() };
        if topic.replicas == 1 {
            Self::start_within(topic, bounds).await
        } else {
            Self::start_cluster_with(topic, bounds).await
        }
    }

    async fn start_within(topic: Topic, bounds: Bounds) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let broker = Self::start_servers(Routing::Queued, 1, bounds, folder).await;
        broker.make_streams(&broker.admin(), &topic).await;
        broker
    }

    /// Starts a broker without streams that may store so many bytes.
    pub async fn start_empty(file_store: u64) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        Self::start_servers(Routing::Queued, 1, Bounds { file_store, ..Bounds::default() }, folder).await
    }

    /// Starts a broker without streams that keeps all its files in a folder of this one, and may store so many bytes.
    pub async fn start_in(parent: &Path, file_store: u64) -> Self {
        let folder = tempfile::tempdir_in(parent).expect("temporary folder");
        Self::start_servers(Routing::Queued, 1, Bounds { file_store, ..Bounds::default() }, folder).await
    }

    /// The same, and with `durability: Fsync`.
    pub async fn start_fsync_in(parent: &Path, file_store: u64) -> Self {
        let folder = tempfile::tempdir_in(parent).expect("temporary folder");
        let bounds = Bounds { file_store, sync_always: true, ..Bounds::default() };
        Self::start_servers(Routing::Queued, 1, bounds, folder).await
    }

    /// Starts a broker of a topic that stores nothing.
    pub async fn start_direct() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        Self::start_servers(Routing::Direct, 1, Bounds::default(), folder).await
    }

    async fn start_servers(routing: Routing, servers: usize, bounds: Bounds, folder: TempDir) -> Self {
        let mut broker = Self::prepare(NAME, routing, servers, bounds, folder, Self::new_authority());
        if servers == 1 && broker.has_storage {
            broker.place_formed().await;
        }
        broker.wake();
        for node in &mut broker.nodes {
            node.start().await;
        }
        broker.until_served().await;
        broker.open(routing).await;
        // Now that there is an account to ask in.
        broker.until_served().await;
        broker
    }

    fn new_authority() -> Authority {
        Authority::generate("test", OffsetDateTime::now_utc()).expect("authority")
    }

    /// Servers that do not run yet, with their configuration, and nothing that wakes them.
    fn prepare(
        name: &str,
        routing: Routing,
        servers: usize,
        bounds: Bounds,
        folder: TempDir,
        authority: Authority,
    ) -> Self {
        // A test binary may start several; the first one installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let now = OffsetDateTime::now_utc();
        write_leaf(&folder.path().join("tls"), &authority, &request("broker", Usage::Server), now);
        write_leaf(&folder.path().join("routes"), &authority, &request("broker", Usage::Peer), now);
        let nodes = (0..servers).map(|node| Node::new(format!("{name}-{node}"), folder.path())).collect();
        let broker = Self {
            authority,
            topics: Mutex::default(),
            nodes,
            routed: servers,
            pods: servers,
            keepers: Vec::new(),
            has_storage: routing == Routing::Queued,
            operator: None,
            ingress: OnceCell::new(),
            admin: None,
            bounds,
            folder,
        };
        broker.configure();
        broker
    }

    /// Makes the first topic's account, and connects to it.
    async fn open(&mut self, routing: Routing) {
        self.add_account(&topic_id(), routing).await;
        let user = || self.authority.operator_user(&topic_id(), OffsetDateTime::now_utc()).expect("user");
        self.operator = Some(self.client_at(user(), &self.servers()).await);
        self.admin = Some(self.client(user()).await);
    }

    /// Addresses for [`tidegate_broker_client::connect`].
    pub fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("tls://localhost:{}", node.port)).collect()
    }

    /// The first server's monitoring address.
    pub fn monitor(&self) -> String {
        format!("http://127.0.0.1:{}", self.nodes[0].monitor)
    }

    /// Where the servers of a cluster reach each other, `nats://host:port`.
    pub fn routes(&self) -> Vec<String> {
        cluster::addresses(&self.nodes)
    }

    /// The folder of the certificate that the servers show to clients.
    pub fn server_identity_dir(&self) -> PathBuf {
        self.folder.path().join("tls")
    }

    /// What a page of the first server's monitoring says.
    pub async fn monitoring(&self, page: &str) -> serde_json::Value {
        self.monitoring_at(0, page).await
    }

    /// What a page of a server's monitoring says.
    pub async fn monitoring_at(&self, server: usize, page: &str) -> serde_json::Value {
        self.nodes[server].monitoring(page).await
    }

    /// The broker's root of trust.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A client of the operator that is connected to this server and no other.
    pub async fn operator_at(&self, server: usize) -> async_nats::Client {
        let user = self.authority.operator_user(&topic_id(), OffsetDateTime::now_utc()).expect("user");
        self.client_at(user, &self.servers()[server..=server]).await
    }

    /// A client that is not ours, as the operator: everything in the topic's account, JetStream included.
    pub fn operator(&self) -> async_nats::Client {
        self.operator.clone().expect("started")
    }

    /// The operator's API of the broker.
    pub fn admin(&self) -> Broker {
        Broker::new(self.admin_client(), REQUEST_TIMEOUT)
    }

    /// The operator's own client, in the topic's account.
    pub fn admin_client(&self) -> nats::Client {
        self.admin.clone().expect("started")
    }

    /// A client of the system account.
    pub async fn system(&self) -> System {
        let user = self.authority.system_user(OffsetDateTime::now_utc()).expect("user");
        System::new(self.client(user).await, self.nodes.len())
    }

    /// A client of the system account at this server, which waits for the answer of no other.
    pub(crate) async fn system_at(&self, server: usize) -> System {
        let user = self.authority.system_user(OffsetDateTime::now_utc()).expect("user");
        System::new(self.connect(user, &self.servers()[server..=server]).await, 1)
    }

    /// Kills the first server (SIGKILL). What it stored stays.
    pub fn stop(&mut self) {
        self.nodes[0].stop();
    }

    /// What the first server has on disk of its consumers at this moment.
    pub fn consumers_on_disk(&self) -> ConsumersOnDisk {
        ConsumersOnDisk::read(&self.data())
    }

    /// Kills the first server (SIGKILL) and starts it again on its store as it would be found if nothing of its consumers
    /// had been written since that moment. (nats-server writes up to a tenth of a second late, and does not sync.) All
    /// events are there.
    pub async fn restart_forgetting_since(&mut self, consumers: &ConsumersOnDisk) {
        self.stop();
        consumers.restore(&self.data());
        self.nodes[0].start().await;
        self.until_served().await;
    }

    /// Starts the first server again, on the same ports and files.
    pub async fn restart(&mut self) {
        self.stop();
        self.nodes[0].start().await;
        self.until_served().await;
    }

    /// Ends this server in order (SIGTERM) and starts it again, on the same ports and files.
    pub async fn restart_in_order(&mut self, server: usize) {
        self.nodes[server].terminate();
        self.nodes[server].start().await;
        self.until_served().await;
    }

    /// Kills this server (SIGKILL). What it stored stays.
    pub fn stop_at(&mut self, server: usize) {
        self.nodes[server].stop();
    }

    /// The first server's process, for signals.
    pub fn pid(&self) -> Option<u32> {
        self.pid_of(0)
    }

    /// A server's process, for signals.
    pub fn pid_of(&self, server: usize) -> Option<u32> {
        self.nodes[server].pid()
    }

    /// The folder where the first server keeps what it stores.
    pub fn data(&self) -> PathBuf {
        self.nodes[0].data()
    }

    async fn client(&self, user: User) -> nats::Client {
        self.connect(user, &self.servers()).await
    }

    async fn connect(&self, user: User, servers: &[String]) -> nats::Client {
        let options = connect::options("test operator", servers, self.identity(user)).expect("options");
        let options = nats::Options { connect_timeout: LIMIT, ..options };
        nats::Client::connect(options).await.expect("connect")
    }

    async fn client_at(&self, user: User, servers: &[String]) -> async_nats::Client {
        peer::connect("test operator", servers, self.identity(user)).await.expect("connect")
    }

    fn identity(&self, user: User) -> Source {
        let now = OffsetDateTime::now_utc();
        let leaf = self.authority.leaf(&request("operator", Usage::Client), now).expect("leaf");
        let identity = Identity {
            ca: self.authority.trusted_servers(),
            certificate: leaf.certificate,
            key: leaf.key,
            user_jwt: user.jwt,
            user_seed: user.seed,
        };
        Arc::new(move || Ok(identity.clone()))
    }

    fn configure(&self) {
        for node in &self.nodes {
            node.configure(&self.server(node).render());
        }
    }

    fn server(&self, node: &Node) -> Server {
        // The server reloads its configuration only with the claims that it started with.
        let now = OffsetDateTime::UNIX_EPOCH;
        let system = self.authority.system_account(now).expect("account");
        let wake = self.authority.wake_account(now).expect("account");
        let jetstream = JetStream { max_file_store: self.bounds.file_store, sync_always: self.bounds.sync_always };
        Server {
            port: node.port,
            monitor: format!("127.0.0.1:{}", node.monitor),
            data: node.data().display().to_string(),
            tls: self.folder.path().join("tls").display().to_string(),
            pid_file: None,
            max_payload: self.bounds.max_payload,
            jetstream: self.has_storage.then_some(jetstream),
            cluster: cluster::routes(&self.nodes[..self.routed], node, &self.folder.path().join("routes")),
            operator_jwt: self.authority.operator_jwt(now).expect("operator"),
            wake: format!("127.0.0.1:{}", node.leaf),
            accounts: vec![(system.id.clone(), system.jwt), (wake.id, wake.jwt)],
            system_account: system.id,
        }
    }

    /// The servers' logs so far.
    pub fn log(&self) -> String {
        self.nodes.iter().map(Node::log).collect()
    }
}
