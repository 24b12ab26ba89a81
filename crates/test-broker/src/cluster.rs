//! Three servers as one broker: the streams and consumers of its topic have three copies.

use std::path::Path;
use std::time::Duration;

use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::server::Cluster;
use tidegate_broker_admin::streams;
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout;
use tokio::time::{Instant, sleep};

use crate::node::Node;
use crate::{Bounds, TestBroker, topic};

/// Servers of a cluster.
pub const SERVERS: usize = 3;
/// How long the servers may take to find a leader.
const ELECTION: Duration = Duration::from_secs(90);

impl TestBroker {
    /// Starts a cluster of [`SERVERS`] with the streams of [`topic`] in as many copies.
    pub async fn start_cluster() -> Self {
        Self::start_cluster_with(Topic { replicas: SERVERS, ..topic() }, Bounds::default()).await
    }

    /// As many servers as the topic has copies.
    pub(crate) async fn start_cluster_with(topic: Topic, bounds: Bounds) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let broker = Self::start_servers(Routing::Queued, topic.replicas, bounds, folder).await;
        broker.make_streams(&broker.admin(), &topic).await;
        broker
    }

    /// Makes a topic's streams. A cluster, also of one, refuses them until it has heard from its servers (10005).
    pub(crate) async fn make_streams(&self, admin: &Broker, topic: &Topic) {
        let begun = Instant::now();
        while let Err(error) = streams::ensure(admin, topic).await {
            assert!(begun.elapsed() < ELECTION, "the cluster has no streams: {error}\n{}", self.log());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes the leader of a consumer of the event stream step down, as a rolling update does.
    pub async fn step_down(&self, consumer: &str) {
        let subject = format!("$JS.API.CONSUMER.LEADER.STEPDOWN.{}.{consumer}", layout::EVENT_STREAM);
        // Without a leader at the moment there is none to step down.
        let _ = self.operator().request(subject, "".into()).await;
    }
}

/// Where the servers reach each other.
pub(crate) fn addresses(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| format!("nats://localhost:{}", node.route)).collect()
}

/// What each of these servers is told of the others.
pub(crate) fn routes(nodes: &[Node], node: &Node, tls: &Path) -> Cluster {
    Cluster { name: "test".to_owned(), port: node.route, routes: addresses(nodes), tls: tls.display().to_string() }
}
