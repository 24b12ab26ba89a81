//! An operator in this process.

use clap::Parser as _;
use kube::Client;
use tidegate_operator::args::Args;
use tidegate_operator::context::Context;
use tidegate_operator::run::run;
use tidegate_operator::sessions::brokers::Addresses;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::brokers::Places;
use super::server::{SERVERS, place};

/// An operator sees all namespaces, so one at a time runs on each API server.
static TURNS: [Mutex<()>; SERVERS] = [const { Mutex::const_new(()) }; SERVERS];

/// The turn to run operators on this test's API server.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURNS[place()].lock().await
}

/// A running operator; dropped, it is gone as if its process had been killed.
pub struct Operator {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    pub fn start(client: Client) -> Self {
        Self::run(Context::new(client, args("operator-0", "default")))
    }

    /// One that finds the brokers of all topics here.
    pub fn start_with_brokers(client: Client, addresses: Addresses) -> Self {
        Self::run(Context::new(client, args("operator-0", "default")).with_broker_addresses(addresses))
    }

    /// The same, where these servers load their configuration while they run.
    pub fn start_with_servers(client: Client, places: &Places) -> Self {
        let context = Context::new(client, args("operator-0", "default")).with_broker_addresses(places.addresses());
        Self::run(context.with_server_digests(places.digests()))
    }

    /// One of another version, which finds the brokers of all topics here.
    pub fn start_version(client: Client, image: &str, addresses: Addresses) -> Self {
        let mut args = args("operator-0", "default");
        (args.broker_image, args.sidecar_image) = (image.to_owned(), image.to_owned());
        Self::run(Context::new(client, args).with_broker_addresses(addresses))
    }

    pub fn run(context: Context) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(context, stop.clone()));
        Self { stop, task }
    }

    /// Ends in order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("ends in time").expect("ends in order");
    }

    /// Ends at once; what was begun stays half done.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the chart would set.
pub fn args(pod_name: &str, pod_namespace: &str) -> Args {
    let flags = [
        ("--sidecar-image", "registry.test/sidecar:1"),
        ("--ingress-image", "registry.test/ingress:1"),
        ("--broker-image", "registry.test/nats-server:1"),
        ("--pod-name", pod_name),
        ("--pod-namespace", pod_namespace),
    ];
    Args::parse_from(
        std::iter::once("tidegate-operator").chain(flags.into_iter().flat_map(|(flag, value)| [flag, value])),
    )
}
