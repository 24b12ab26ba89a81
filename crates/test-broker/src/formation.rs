//! How the server of a test becomes a cluster of one, as that of a broker with one pod does.
//!
//! The first election of a new server takes four to nine seconds. So one is formed in each process of tests, and every
//! other broker begins with what that one had on its disk then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate_broker_admin::Authority;
use tidegate_broker_admin::api::{ApiError, Broker, ErrorCode, StreamConfig};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::seed::{self, Seeded};
use tidegate_broker_client::wake::{self, Wake};
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::node::Node;
use crate::wait::eventually;
use crate::{Bounds, NAME, TestBroker, topic};

/// What the server of a formed cluster of one has on its disk, by the names that the files have there.
static FORMED: OnceCell<Vec<(PathBuf, Vec<u8>)>> = OnceCell::const_new();

/// How long a server that starts again may take to serve its streams. One that a test damaged never does.
const SERVED: Duration = Duration::from_secs(30);

/// Keeps a server awake as long as it lives.
pub(crate) struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl TestBroker {
    /// A broker of one server that has never run, and nothing wakes it yet. It has no topic.
    pub fn unformed() -> Self {
        Self::unformed_as(NAME, 1)
    }

    /// The same with so many servers, which have this name and a number.
    pub fn unformed_as(name: &str, servers: usize) -> Self {
        Self::unformed_with(name, servers, Self::new_authority())
    }

    /// One server of this name, with a root of trust of an earlier version: servers and clients have one authority.
    pub fn unformed_of_earlier_version(name: &str) -> Self {
        let mut authority = Self::new_authority();
        authority.issuers.servers = authority.issuers.clients.clone();
        Self::unformed_with(name, 1, authority)
    }

    fn unformed_with(name: &str, servers: usize, authority: Authority) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let bounds = Bounds { sync_always: true, ..Bounds::default() };
        Self::prepare(name, Routing::Queued, servers, bounds, folder, authority)
    }

    /// Starts all servers, and waits until they have streams to give.
    pub async fn start_all(&mut self) {
        for node in &mut self.nodes {
            node.start().await;
        }
        eventually("a cluster", async || {
            let mut healthy = true;
            for node in &self.nodes {
                healthy &= node.is_healthy().await;
            }
            healthy
        })
        .await;
    }

    /// Starts a server that was stopped.
    pub async fn start_at(&mut self, server: usize) {
        self.nodes[server].start().await;
    }

    /// Writes the seed of the first server, as its pod does.
    ///
    /// # Errors
    /// See [`seed::SeedError`].
    pub fn seed(&self) -> Result<Seeded, seed::SeedError> {
        let node = &self.nodes[0];
        seed::write(&node.data(), &self.system_account(), node.name())
    }

    /// The file that [`Self::seed`] writes.
    pub fn seed_file(&self) -> PathBuf {
        self.meta_folder().join("peers.idx")
    }

    /// Where the ingress beside the first server wakes it.
    pub fn wake_address(&self) -> String {
        wake_address(&self.nodes[0])
    }

    /// Connects to every server, as the ingress beside it does, for as long as the broker lives.
    pub fn wake(&mut self) {
        self.keepers = self.nodes.iter().map(|node| Keeper(tokio::spawn(wake::keep(self.waker(node))))).collect();
    }

    /// Ends these connections.
    pub fn stop_waking(&mut self) {
        self.keepers.clear();
    }

    /// Lets the servers store so many bytes, from their next start on.
    pub fn set_file_store(&mut self, bytes: u64) {
        self.bounds.file_store = bytes;
        self.configure();
    }

    /// Makes the first server load its configuration again (SIGHUP).
    pub fn reload(&self) {
        self.nodes[0].signal(Signal::SIGHUP);
    }

    /// Starts the first server, if it does not run; whether it then serves its streams within this time.
    pub async fn serves_within(&mut self, limit: Duration) -> bool {
        if self.nodes[0].pid().is_none() {
            self.nodes[0].start().await;
        }
        is_healthy_within(&self.nodes[0], limit).await
    }

    /// Makes the topic that other brokers of tests begin with. Its streams have a copy on each server.
    pub async fn add_first_topic(&mut self) {
        self.open(Routing::Queued).await;
        let topic = Topic { replicas: self.nodes.len(), ..topic() };
        self.make_streams(&self.admin(), &topic).await;
    }

    /// Gives the server what one has that was formed before.
    pub(crate) async fn place_formed(&self) {
        let meta = self.meta_folder();
        for (name, content) in FORMED.get_or_init(|| Box::pin(form())).await {
            let path = meta.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            std::fs::write(path, content).expect("write");
        }
    }

    /// Waits until a server on its own serves its streams, and takes new ones. Those of a cluster wait for each other.
    pub(crate) async fn until_served(&self) {
        let is_alone = self.has_storage && self.nodes.len() == 1 && !self.keepers.is_empty();
        if is_alone && is_healthy_within(&self.nodes[0], SERVED).await {
            self.until_streams_are_taken().await;
        }
    }

    /// A cluster, also of one, takes no stream before it has heard from its servers, although it is healthy.
    async fn until_streams_are_taken(&self) {
        let Some(client) = self.admin.clone() else { return };
        let (admin, begun) = (Broker::new(client, Duration::from_secs(1)), Instant::now());
        let probe = StreamConfig {
            name: "probe".into(),
            subjects: vec!["probe".into()],
            max_bytes: 1 << 10,
            ..StreamConfig::default()
        };
        while begun.elapsed() < SERVED {
            match admin.create_stream(&probe).await {
                Err(ApiError::Refused(why)) if why.error_code == ErrorCode::CLUSTER_NO_PEERS => {}
                Err(ApiError::Unavailable(_)) => {}
                Ok(_) => {
                    let _ = admin.delete_stream(&probe.name).await;
                    return;
                }
                // Refused for another reason, it would be taken.
                Err(_) => return,
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn waker(&self, node: &Node) -> Wake {
        let user = self.authority().wake_user(OffsetDateTime::now_utc()).expect("user");
        Wake { address: wake_address(node), identity: self.identity(user) }
    }

    /// The id of the system account.
    pub fn system_account(&self) -> String {
        self.authority().system_account(OffsetDateTime::UNIX_EPOCH).expect("account").id
    }

    /// Where the first server keeps its part of the raft group of all streams.
    fn meta_folder(&self) -> PathBuf {
        self.data().join("jetstream").join(self.system_account()).join("_js_").join("_meta_")
    }
}

fn wake_address(node: &Node) -> String {
    format!("localhost:{}", node.leaf)
}

async fn is_healthy_within(node: &Node, limit: Duration) -> bool {
    let begun = Instant::now();
    while !node.is_healthy().await {
        if begun.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

async fn form() -> Vec<(PathBuf, Vec<u8>)> {
    let mut broker = TestBroker::unformed();
    broker.seed().expect("a seed");
    broker.wake();
    broker.nodes[0].start().await;
    eventually("a cluster of one", async || broker.nodes[0].is_healthy().await).await;
    broker.nodes[0].terminate();
    let mut files = Vec::new();
    read(&broker.meta_folder(), Path::new(""), &mut files);
    files
}

/// All files of a folder and of those below it.
fn read(folder: &Path, within: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder.join(within)).expect("folder") {
        let entry = entry.expect("entry");
        let name = within.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            read(folder, &name, into);
        } else {
            into.push((name, std::fs::read(entry.path()).expect("read")));
        }
    }
}
