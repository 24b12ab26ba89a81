//! The nats-server's configuration, as JSON (which its format includes).
//!
//! The server's name comes from the command line (`--name`), so that all servers of a topic share one file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What the configuration depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Client port.
    pub port: u16,
    /// Monitoring address: loopback only, since it is open to whoever reaches it.
    pub monitor: String,
    /// Folder for streams and accounts.
    pub data: String,
    /// Folder with `ca.crt`, `tls.crt`, `tls.key`.
    pub tls: String,
    /// Where the process id is written, for the lame-duck signal.
    pub pid_file: Option<String>,
    /// Bytes of a message, headers included.
    pub max_payload: usize,
    /// Storage; `None`: nothing is stored.
    pub jetstream: Option<JetStream>,
    /// Routes to the other servers, `nats://host:port`; none for a single server.
    pub cluster: Option<Cluster>,
    /// The operator claim.
    pub operator_jwt: String,
    /// Id of the system account.
    pub system_account: String,
    /// Accounts that the server knows from the start, id and JWT: the system account and the topic's, so that a
    /// topic comes up without the operator. Handlers' accounts are pushed.
    pub accounts: Vec<(String, String)>,
}

/// Storage.
#[derive(Clone, Debug, PartialEq)]
pub struct JetStream {
    /// Bytes it may use on the volume.
    pub max_file_store: u64,
    /// On disk before acknowledged?
    pub sync_always: bool,
}

/// The other servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// Route port.
    pub port: u16,
    /// All servers' routes, the server's own included. Only a peer whose certificate has a host name of one of them is
    /// let in.
    pub routes: Vec<String>,
    /// Folder with `ca.crt`, `tls.crt`, `tls.key` of the routes, of an authority of their own.
    pub tls: String,
}

impl Server {
    /// The configuration file.
    pub fn render(&self) -> String {
        let mut config = json!({
            "port": self.port,
            "http": self.monitor,
            "tls": tls(&self.tls, "verify"),
            "operator": self.operator_jwt,
            "system_account": self.system_account,
            // A server that was away asks for what it missed after this long: a revoked user is out by then.
            "resolver": {
                "type": "full", "dir": format!("{}/accounts", self.data), "allow_delete": true,
                "interval": "2s", "timeout": "1900ms",
            },
            "resolver_preload": self.accounts.iter().cloned().collect::<BTreeMap<_, _>>(),
            "max_payload": self.max_payload,
            "max_pending": 67_108_864.max(4 * self.max_payload),
            // A consumer's client that stops reading is cut, so that it cannot hold the server's memory.
            "write_deadline": "10s",
            "lame_duck_grace_period": "2s",
            "lame_duck_duration": "30s",
            "ping_interval": "20s",
        });
        if let Some(JetStream { max_file_store, sync_always }) = &self.jetstream {
            config["jetstream"] = json!({
                "store_dir": self.data,
                "max_memory_store": 0,
                "max_file_store": max_file_store,
                "sync_interval": if *sync_always { json!("always") } else { json!("2m") },
            });
        }
        if let Some(pid_file) = &self.pid_file {
            config["pid_file"] = json!(pid_file);
        }
        if let Some(cluster) = &self.cluster {
            config["cluster"] = json!({
                "name": cluster.name, "port": cluster.port, "routes": cluster.routes,
                "tls": tls(&cluster.tls, "verify_cert_and_check_known_urls"),
                "no_advertise": true,
            });
        }
        pretty(&config)
    }
}

/// Both sides show a certificate; `check` is how strictly a client's is looked at.
fn tls(folder: &str, check: &str) -> Value {
    json!({
        "ca_file": format!("{folder}/ca.crt"),
        "cert_file": format!("{folder}/tls.crt"),
        "key_file": format!("{folder}/tls.key"),
        check: true,
        "timeout": 5,
    })
}

fn pretty(config: &Value) -> String {
    let mut text = serde_json::to_string_pretty(config).unwrap_or_default();
    text.push('\n');
    text
}
