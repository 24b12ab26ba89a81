//! Dapr's sidecar with `pubsub.jetstream`, and a nats-server for it.
//!
//! Its component cannot present a client certificate and a user JWT at once, so its server asks for neither; TLS, the
//! stream on disk and the sync of each write are as ours. It reads CloudEvents as JSON documents, so those are stored.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use futures::future::try_join_all;
use tempfile::TempDir;
use tidegate_broker_client::identity::file;
use tidegate_test_broker::free_port;
use tokio::time::sleep;

use crate::broker::Broker;
use crate::contender::one_thread;
use crate::process::Process;
use crate::{LIMIT, events};

const STREAM: &str = "events";
const CONSUMER: &str = "dapr";
const WINDOW: usize = 512;

/// The program with its broker.
pub struct Daprd {
    program: PathBuf,
    folder: TempDir,
    server: Process,
    port: u16,
    ca: PathBuf,
    stream: jetstream::Context,
}

impl Daprd {
    /// Starts a broker for it with the certificate of this one.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(program: &Path, broker: &Broker) -> anyhow::Result<Self> {
        let (folder, tls, port) = (TempDir::new()?, broker.server.server_identity_dir(), free_port());
        let config = folder.path().join("nats.conf");
        std::fs::write(&config, server_config(port, folder.path(), &tls))?;
        let server = std::env::var("NATS_SERVER").context("NATS_SERVER")?;
        let arguments =
            ["--config".to_owned(), config.display().to_string(), "--log".to_owned(), "/dev/null".to_owned()];
        let mut server = Process::spawn(Path::new(&server), &arguments, &Vec::new())?;
        let ca = tls.join(file::CA);
        let client = connect(&mut server, port, &ca).await?;
        let stream = jetstream::new(client);
        let wanted = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![STREAM.to_owned()],
            ..Default::default()
        };
        stream.create_stream(wanted).await?;
        std::fs::create_dir(folder.path().join("resources"))?;
        Ok(Self { program: program.to_owned(), folder, server, port, ca, stream })
    }

    /// The process of its broker.
    pub fn server_pid(&self) -> u32 {
        self.server.id()
    }

    /// Stores so many events for it, and nothing else.
    ///
    /// # Errors
    /// The broker refuses one.
    pub async fn publish(&self, count: u64) -> anyhow::Result<()> {
        let stream = self.stream.get_stream(STREAM).await?;
        // It makes its consumer at each start, and cannot change one that is there. The first time there is none.
        let _ = stream.delete_consumer(CONSUMER).await;
        stream.purge().await?;
        let all: Vec<u64> = events::numbers(count).collect();
        for some in all.chunks(WINDOW) {
            let mut stored = Vec::with_capacity(some.len());
            for number in some {
                stored.push(self.stream.publish(STREAM, events::document(*number)?).await?.into_future());
            }
            try_join_all(stored).await?;
        }
        Ok(())
    }

    /// Starts the program.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(&self, app_port: u16, concurrency: u16) -> anyhow::Result<Process> {
        let resources = self.folder.path().join("resources");
        std::fs::write(resources.join("pubsub.yaml"), component(self.port, concurrency))?;
        std::fs::write(resources.join("subscription.yaml"), SUBSCRIPTION)?;
        let arguments = [
            format!("--app-id={CONSUMER}"),
            format!("--app-port={app_port}"),
            format!("--dapr-http-port={}", free_port()),
            format!("--dapr-grpc-port={}", free_port()),
            format!("--dapr-internal-grpc-port={}", free_port()),
            format!("--resources-path={}", resources.display()),
            "--enable-metrics=false".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let home = ("HOME".to_owned(), self.folder.path().display().to_string());
        let roots = ("SSL_CERT_FILE".to_owned(), self.ca.display().to_string());
        Process::spawn(&self.program, &arguments, &vec![home, roots, one_thread()])
    }

    /// Waits until its last acknowledgement is with the broker.
    ///
    /// # Errors
    /// It does not come.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let stream = self.stream.get_stream(STREAM).await?;
        let begun = Instant::now();
        loop {
            let info = stream.consumer_info(CONSUMER).await?;
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "daprd still has {} unacknowledged", info.num_ack_pending);
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn connect(server: &mut Process, port: u16, ca: &Path) -> anyhow::Result<async_nats::Client> {
    let begun = Instant::now();
    loop {
        let options = async_nats::ConnectOptions::new().add_root_certificates(ca.to_owned()).require_tls(true);
        match options.connect(format!("tls://localhost:{port}")).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                server.runs()?;
                ensure!(begun.elapsed() < LIMIT, "daprd's nats-server: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn server_config(port: u16, folder: &Path, tls: &Path) -> String {
    let (store, tls) = (folder.join("data"), |name| tls.join(name).display().to_string());
    format!(
        r#"
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{}", sync_interval: always }}
tls {{ cert_file: "{}", key_file: "{}" }}
"#,
        store.display(),
        tls(file::CERTIFICATE),
        tls(file::KEY)
    )
}

fn component(port: u16, concurrency: u16) -> String {
    format!(
        r#"apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: broker}}
spec:
  type: pubsub.jetstream
  version: v1
  metadata:
  - {{name: natsURL, value: "tls://localhost:{port}"}}
  - {{name: streamName, value: {STREAM}}}
  - {{name: durableName, value: {CONSUMER}}}
  - {{name: queueGroupName, value: {CONSUMER}}}
  - {{name: maxAckPending, value: "{concurrency}"}}
  - {{name: concurrency, value: parallel}}
"#
    )
}

const SUBSCRIPTION: &str = "apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: events}
spec: {pubsubname: broker, topic: events, routes: {default: /events}}
";
