//! The sidecars, one program for each handler.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_client::contract::{self, TopicAddress};
use tidegate_broker_client::identity::file;
use tidegate_operator::programs::{self, SidecarPlace};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::broker::{Broker, CA_FILE};
use super::keeper::Keeper;
use super::ports;
use super::process::{Output, Process};
use super::project::Handler;
use super::state::State;
use crate::failure::Failure;

/// How long deliveries may take to end when a sidecar is to.
const DRAIN: Duration = Duration::from_secs(3);
/// Between two looks at a sidecar that starts.
const LOOK: Duration = Duration::from_millis(20);
/// It is ended, and never drained to stay.
const RESUME_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A handler, by its namespace and name.
type Key = (String, String);

/// All of them.
#[derive(Default)]
pub struct Sidecars(BTreeMap<Key, Running>);

struct Running {
    handler: Handler,
    process: Process,
    /// Says when it is ready.
    _ready: AbortOnDropHandle<()>,
}

/// What they need besides a handler.
pub struct Place<'a> {
    /// Where identities are written.
    pub state: &'a State,
    /// The program.
    pub program: PathBuf,
    /// The broker's addresses.
    pub servers: Vec<String>,
    /// The ingress's address, `https://host:port`.
    pub ingress: String,
    /// Where spans are sent.
    pub spans: u16,
    /// Ports that are somebody else's.
    pub taken: Vec<u16>,
    /// Where their lines go.
    pub output: &'a Output,
    /// What ends them in the end.
    pub keeper: &'a Keeper,
    /// Who hears of a handler that gets events from now on.
    pub ready: &'a mpsc::Sender<String>,
}

impl Sidecars {
    /// Makes the sidecars of these handlers run, and no others; answers with what was done.
    ///
    /// # Errors
    /// The broker refuses, or a program does not start.
    pub async fn ensure(
        &mut self,
        handlers: &[Handler],
        broker: &mut Broker,
        place: &Place<'_>,
    ) -> Result<Vec<String>, Failure> {
        let mut done = Vec::new();
        let key = |handler: &Handler| (handler.namespace.clone(), handler.name.clone());
        let gone: Vec<Key> =
            self.0.keys().filter(|known| handlers.iter().all(|handler| key(handler) != **known)).cloned().collect();
        for key in gone {
            if let Some(Running { handler, process, .. }) = self.0.remove(&key) {
                process.end(DRAIN).await;
                broker.remove_handler(&handler).await?;
                done.push(format!("handler {} is gone, and its place in topic {}", handler.name, handler.topic.name()));
            }
        }
        for handler in handlers {
            let before = self.0.remove(&key(handler));
            match before {
                Some(running) if running.handler == *handler => {
                    self.0.insert(key(handler), running);
                    continue;
                }
                Some(running) => {
                    running.process.end(DRAIN).await;
                    if running.handler.topic != handler.topic {
                        broker.remove_handler(&running.handler).await?;
                    }
                    done.push(format!("handler {} has its new specification", handler.name));
                }
                None => {}
            }
            self.0.insert(key(handler), start(handler, broker, place).await?);
        }
        Ok(done)
    }

    /// The first of them that has ended, and how.
    pub fn ended(&mut self) -> Option<(String, String)> {
        self.0.values_mut().find_map(|running| {
            let how = running.process.try_ended()?;
            Some((running.process.name.clone(), how))
        })
    }

    /// Ends all of them, at the same time.
    pub async fn end(&mut self) {
        let ends: Vec<_> =
            std::mem::take(&mut self.0).into_values().map(|running| tokio::spawn(running.process.end(DRAIN))).collect();
        for end in ends {
            // A panic of a task is reported by itself.
            let _ = end.await;
        }
    }
}

async fn start(handler: &Handler, broker: &mut Broker, place: &Place<'_>) -> Result<Running, Failure> {
    let identity = broker.ensure_handler(handler).await?;
    let folder = format!("handlers/{}.{}", handler.namespace, handler.name);
    let identity = place.state.write_folder(&folder, &identity)?;
    let [admin_port] = ports::free(&place.taken)?;
    let ca = place.state.root().join(CA_FILE);
    let destination = |topic: &str| TopicAddress {
        topic: topic.to_owned(),
        url: format!("{}/{}/{topic}", place.ingress, handler.namespace),
        ca: ca.clone(),
        message_id_key: identity.join(file::message_id_key_for(topic)),
    };
    let sidecar = SidecarPlace {
        namespace: handler.namespace.clone(),
        known_as: handler.known_as.clone(),
        uid: handler.uid(),
        routing: handler.routing,
        servers: place.servers.clone(),
        identity: identity.clone(),
        admin_port,
        resume_after: RESUME_AFTER,
        destination,
    };
    let config = programs::sidecar(&handler.resource, &handler.settings, sidecar);
    let config = serde_json::to_string(&config).map_err(Failure::failed)?;
    let environment = |command: &mut Command| environment(command, &config, place.spans);
    let name = format!("handler {}", handler.name);
    let process = Process::start(&name, &place.program, environment, place.output, place.keeper)?;
    let ready = tokio::spawn(tell_ready(handler.name.clone(), admin_port, place.ready.clone()));
    Ok(Running { handler: handler.clone(), process, _ready: AbortOnDropHandle::new(ready) })
}

/// Says when a sidecar is ready: connected, and the handler's program there.
async fn tell_ready(handler: String, admin_port: u16, ready: mpsc::Sender<String>) {
    while !is_ready(admin_port).await {
        sleep(LOOK).await;
    }
    // Who does not hear it has ended.
    let _ = ready.send(handler).await;
}

/// Whether an ingress or a sidecar says that it is ready.
pub async fn is_ready(admin_port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, admin_port)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.ends_with(b" 200"))
    };
    ask.await.unwrap_or(false)
}

/// The environment of our programs: their configuration, and where their spans go. All spans are wanted, at once.
pub fn environment(command: &mut Command, config: &str, spans: u16) {
    command
        .env_clear()
        .env(contract::VARIABLE, config)
        .env("K8S_POD_NAME", "dev")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{spans}"))
        .env("OTEL_TRACES_SAMPLER", "always_on")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "3600000");
    for kept in ["RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
}
