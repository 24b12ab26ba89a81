//! A nats-server that tries to join a topic's brokers as one of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::identity::file;
use tidegate_test_broker::{LIMIT, TestBroker, free_port, topic_id};

/// Twice for each of three brokers: the first three may have been for the stranger before, which was killed meanwhile.
const REFUSALS: usize = 6;

/// A stock nats-server that tries to join.
pub struct Stranger {
    name: String,
    folder: PathBuf,
    refused_before: usize,
    child: Child,
}

impl Stranger {
    /// With the certificate, key and authority of this folder, and what any reader of the ConfigMap knows.
    pub fn start(broker: &TestBroker, parent: &Path, name: &str, identity: &Path) -> Self {
        let now = time::OffsetDateTime::now_utc();
        let authority = broker.authority();
        let system = authority.system_account(now).unwrap();
        let topic = authority.topic_account(&topic_id(), Routing::Queued, Some(1 << 30), now).unwrap();
        let folder = parent.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let config = json!({
            "server_name": name,
            "listen": format!("127.0.0.1:{}", free_port()),
            "log_file": folder.join("log"),
            "operator": authority.operator_jwt(now).unwrap(),
            "system_account": system.id,
            "resolver": "MEMORY",
            "resolver_preload": {system.id: system.jwt, topic.id: topic.jwt},
            "cluster": {
                "name": "test",
                "listen": format!("127.0.0.1:{}", free_port()),
                "routes": broker.routes(),
                "tls": {
                    "cert_file": identity.join(file::CERTIFICATE), "key_file": identity.join(file::KEY),
                    "insecure": true, "verify": false,
                },
            },
        });
        std::fs::write(folder.join("nats.conf"), config.to_string()).unwrap();
        let refused_before = refusals(broker);
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
        let child = Command::new(program)
            .arg("--config")
            .arg(folder.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), folder, refused_before, child }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until it is in or out: whether a broker knows a route to it, or has refused it again and again.
    pub async fn joins(&self, broker: &TestBroker) -> bool {
        let begun = Instant::now();
        loop {
            // First: a client that was refused so often does not get in later.
            let refusals = refusals(broker);
            let routes = broker.monitoring("routez").await;
            let is_in = |route: &Value| route["remote_name"] == self.name.as_str();
            if routes["routes"].as_array().unwrap().iter().any(is_in) {
                return true;
            }
            if refusals >= self.refused_before + REFUSALS {
                return false;
            }
            assert!(begun.elapsed() < LIMIT, "neither in nor out:\n{}\n{}", self.log(), broker.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How often a broker has turned somebody away from its routes: by the handshake, or by what the certificate says.
fn refusals(broker: &TestBroker) -> usize {
    let is_refusal = |line: &&str| {
        ["TLS route handshake error", "uthorization", "uthentication"].iter().any(|words| line.contains(words))
    };
    broker.log().lines().filter(is_refusal).count()
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
