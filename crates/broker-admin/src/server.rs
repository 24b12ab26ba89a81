//! The nats-server's configuration, as JSON (which its format includes).
//!
//! The server's name comes from its environment ([`NAME_VARIABLE`]), so that all servers of a broker share one file. On
//! the command line it would forbid every later reload.
//!
//! Every server is a member of a cluster, also where it is the only one: a server without a cluster that becomes a member
//! of one loses its streams.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Raft groups of a server at most: above that the servers of a broker are busy with keeping each other informed.
pub const MAX_GROUPS: usize = 2000;

/// Consumers of a stream at most. Without a number of its own the server takes 1,000, also where stream and account have no
/// bound, which 32 handlers of 32 lanes exceed. On several servers [`MAX_GROUPS`] is reached before; on one this is what
/// keeps the handlers of a topic from using up its memory: about 50 KiB for each consumer, 200 MiB in all.
pub const MAX_CONSUMERS: usize = 4096;

/// The environment variable with the server's name, as [`name_value`] writes it.
pub const NAME_VARIABLE: &str = "SERVER_NAME";

/// A server's name as the value of [`NAME_VARIABLE`]. The server reads it as a value of its configuration, in which
/// quotes make a text of whatever looks like a number or a date.
pub fn name_value(name: &str) -> String {
    format!("\"{name}\"")
}

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
    /// The servers of the broker.
    pub cluster: Cluster,
    /// Where the ingress beside the server wakes it ([`tidegate_broker_client::wake`]), `host:port`: loopback only.
    pub wake: String,
    /// The operator claim.
    pub operator_jwt: String,
    /// Id of the system account.
    pub system_account: String,
    /// Accounts that the server knows from the start, id and JWT: those of the system, the ingresses and [`Self::wake`].
    /// Those of topics and of whoever uses them are pushed.
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

/// The servers of a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// Route port.
    pub port: u16,
    /// All servers' routes, the server's own included, which it ignores; at least one. Only a peer whose certificate has
    /// a host name of one of them is let in.
    pub routes: Vec<String>,
    /// Folder with `ca.crt`, `tls.crt`, `tls.key` of the routes, of an authority of their own.
    pub tls: String,
}

impl Server {
    /// The configuration file.
    pub fn render(&self) -> String {
        // In quotes it would be a text, and not the variable.
        pretty(&self.config(&format!("${NAME_VARIABLE}"))).replacen(
            &format!("\"${NAME_VARIABLE}\""),
            &format!("${NAME_VARIABLE}"),
            1,
        )
    }

    /// What the server of this name answers to `VARZ` as its `config_digest` when it has loaded this configuration.
    pub fn digest(&self, server_name: &str) -> String {
        let sorted: BTreeMap<String, Value> = serde_json::from_value(self.config(server_name)).unwrap_or_default();
        let text = serde_json::to_string(&sorted).unwrap_or_default();
        // As Go writes JSON.
        let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
        let digest = Sha256::digest(text + "\n");
        digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn config(&self, server_name: &str) -> Value {
        let mut config = json!({
            "server_name": server_name,
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
                "limits": {"max_ha_assets": MAX_GROUPS, "default_max_consumers": MAX_CONSUMERS},
            });
        }
        if let Some(pid_file) = &self.pid_file {
            config["pid_file"] = json!(pid_file);
        }
        let cluster = &self.cluster;
        config["cluster"] = json!({
            "name": cluster.name, "port": cluster.port, "routes": cluster.routes,
            "tls": tls(&cluster.tls, "verify_cert_and_check_known_urls"),
            "no_advertise": true,
        });
        config["leafnodes"] = json!({"listen": self.wake, "no_advertise": true, "tls": tls(&self.tls, "verify")});
        config
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
