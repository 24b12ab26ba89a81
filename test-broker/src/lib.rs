//! A real nats-server for tests: operator mode, mutual TLS, a topic's streams, as the operator sets it up.
//!
//! The server's binary is named by `NATS_SERVER`, else found on `PATH`. It listens on loopback only and
//! ends with its [`TestBroker`].

#![allow(clippy::expect_used, clippy::missing_panics_doc)] // a test support: it fails by panicking

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use tempfile::TempDir;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::server::Server;
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_admin::{Authority, Leaf, consumers, streams};
use tidegate_broker_client::connect;
use tidegate_broker_client::identity::{Identity, Source, file};
use time::OffsetDateTime;

/// A running broker of one topic.
pub struct TestBroker {
    authority: Authority,
    folder: TempDir,
    port: u16,
    monitor: u16,
    child: Option<Child>,
    operator: Option<async_nats::Client>,
}

/// The topic that [`TestBroker::start`] makes.
pub fn topic() -> Topic {
    Topic {
        replicas: 1,
        max_bytes: 256 << 20,
        dead_letter_bytes: 64 << 20,
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
        // A test binary may start several; the first one installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let now = OffsetDateTime::now_utc();
        let authority = Authority::generate("test", now).expect("authority");
        let folder = tempfile::tempdir().expect("temporary folder");
        let leaf = authority.leaf("broker", vec!["localhost".into()], now).expect("leaf");
        write_leaf(&folder.path().join("tls"), &authority, &leaf);
        let mut broker =
            Self { authority, folder, port: free_port(), monitor: free_port(), child: None, operator: None };
        broker.configure();
        broker.spawn().await;
        let operator = broker.client(broker.authority.operator_user(now).expect("user")).await;
        streams::ensure(&jetstream::new(operator.clone()), &topic).await.expect("streams");
        broker.operator = Some(operator);
        broker
    }

    /// Addresses for [`tidegate_broker_client::connect`].
    pub fn servers(&self) -> Vec<String> {
        vec![format!("tls://localhost:{}", self.port)]
    }

    /// The server's monitoring address.
    pub fn monitor(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// The topic's root of trust.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The operator's client: everything in the topic's account, JetStream included.
    pub fn operator(&self) -> async_nats::Client {
        self.operator.clone().expect("started")
    }

    /// A client of the system account.
    pub async fn system(&self) -> System {
        let user = self.authority.system_user(OffsetDateTime::now_utc()).expect("user");
        System::new(self.client(user).await, 1)
    }

    /// The identity folder of the ingress.
    pub fn ingress_identity_dir(&self) -> PathBuf {
        let user = self.authority.ingress_user(OffsetDateTime::now_utc()).expect("user");
        self.identity_dir("ingress", &user)
    }

    /// A handler with its consumer, account and identity folder.
    pub async fn handler(&self, name: &str, ack_wait: Duration) -> PathBuf {
        let handler = consumers::Handler {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            replicas: 1,
            ack_wait,
            max_ack_pending: 10_000,
            max_waiting: 64,
        };
        self.handler_with(handler).await
    }

    /// The same, with all settings of the consumer.
    pub async fn handler_with(&self, handler: consumers::Handler) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        consumers::ensure(&jetstream::new(self.operator()), &handler).await.expect("consumer");
        let account = self.authority.handler_account(&handler.name, &handler.uid, now).expect("account");
        self.system().await.ensure(&account).await.expect("handler account");
        let user = self.authority.handler_user(&handler.name, &handler.uid, now).expect("user");
        self.identity_dir(&handler.name, &user)
    }

    /// Kills the server (SIGKILL). What it stored stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Starts the server again, on the same ports and files.
    pub async fn restart(&mut self) {
        self.stop();
        self.spawn().await;
    }

    /// The server's process, for signals.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    async fn client(&self, user: User) -> async_nats::Client {
        let now = OffsetDateTime::now_utc();
        let leaf = self.authority.leaf("operator", Vec::new(), now).expect("leaf");
        let identity = Identity {
            ca: self.authority.ca_certificate.clone(),
            certificate: leaf.certificate,
            key: leaf.key,
            user_jwt: user.jwt,
            user_seed: user.seed,
        };
        let source: Source = Arc::new(move || Ok(identity.clone()));
        connect::connect("test operator", &self.servers(), source).await.expect("connect")
    }

    fn identity_dir(&self, name: &str, user: &User) -> PathBuf {
        let folder = self.folder.path().join(format!("identity-{name}"));
        let leaf = self.authority.leaf(name, vec!["localhost".into()], OffsetDateTime::now_utc()).expect("leaf");
        write_leaf(&folder, &self.authority, &leaf);
        std::fs::write(folder.join(file::USER_JWT), &user.jwt).expect("write");
        std::fs::write(folder.join(file::USER_SEED), &user.seed).expect("write");
        folder
    }

    fn configure(&self) {
        let now = OffsetDateTime::now_utc();
        let system = self.authority.system_account(now).expect("account");
        let topic = self.authority.topic_account(now).expect("account");
        let server = Server {
            port: self.port,
            monitor: format!("127.0.0.1:{}", self.monitor),
            data: self.folder.path().join("data").display().to_string(),
            tls: self.folder.path().join("tls").display().to_string(),
            pid_file: None,
            max_payload: 4 << 20,
            max_file_store: 1 << 30,
            sync_always: false,
            cluster: None,
            operator_jwt: self.authority.operator_jwt(now).expect("operator"),
            accounts: vec![(system.id.clone(), system.jwt), (topic.id, topic.jwt)],
            system_account: system.id,
        };
        std::fs::write(self.folder.path().join("nats.conf"), server.render()).expect("write");
    }

    async fn spawn(&mut self) {
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("log");
        let child = Command::new(&program)
            .args(["--name", "test", "--config"])
            .arg(self.folder.path().join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} (NATS_SERVER): {error}"));
        self.child = Some(child);
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nats-server does not listen:\n{}", self.log());
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_leaf(folder: &Path, authority: &Authority, leaf: &Leaf) {
    std::fs::create_dir_all(folder).expect("folder");
    std::fs::write(folder.join(file::CA), &authority.ca_certificate).expect("write");
    std::fs::write(folder.join(file::CERTIFICATE), &leaf.certificate).expect("write");
    std::fs::write(folder.join(file::KEY), &leaf.key).expect("write");
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}
