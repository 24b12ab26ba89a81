//! What the operator tells the programs it starts: one JSON document each, in an environment variable.
//!
//! A change of it changes the pod template, so it always reaches the program by an ordinary rollout.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcomes::Outcomes;
use crate::probes::Probes;

mod ingress_report;
mod publishers;
mod relocation;
mod retry;
mod topics;

pub use self::ingress_report::{
    INGRESS_REPORT_PERIOD, IngressFailure, IngressReport, LostTail, PROGRESS_PERIOD, StoreFailure, StreamProgress,
    VolumeRoom,
};
pub use self::publishers::{
    AUDIENCE_PREFIX, InvalidPattern, Jwk, Jwks, MAX_CLIENT_CAS, MAX_KEY_VALUE, MAX_KEYS, MAX_PATTERN, MAX_PATTERNS,
    MAX_RULES, Pattern, PublisherRule, RuleKind, TokenTrust, audience,
};
pub use self::relocation::Relocation;
pub use self::retry::{Expiry, OnExhausted, OnExpired, Retry};
pub use self::topics::{
    KeyText, MAX_TOPICS, MAX_TOPICS_FILE, ServedTopic, ServesReply, ServesRequest, TOPICS_FILE, Topics, TopicsError,
};

/// The environment variable that holds the JSON.
pub const VARIABLE: &str = "TIDEGATE_CONFIG";

/// What a handler's sidecar needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sidecar {
    /// Namespace of the handler.
    pub namespace: String,
    /// The EventTopic's name.
    pub topic: String,
    /// The handler's name in the topic's account ([`crate::layout::handler_name`]), after which its consumers are named.
    pub handler: String,
    /// The EventHandler's UID: one that is made again under the same name is another.
    pub handler_uid: String,
    /// How the topic's events reach the sidecar.
    #[serde(default)]
    pub routing: Routing,
    /// Broker addresses, `tls://host:port`.
    pub servers: Vec<String>,
    /// Folder of [`crate::identity::file`]s.
    pub identity: PathBuf,
    /// The port of the sidecar's own listener: probes and drain.
    pub admin_port: u16,
    /// A pod that is still there so long after its drain began was not meant to end: deliveries continue.
    #[serde(with = "millis")]
    pub resume_after: Duration,
    /// When events may be delivered.
    #[serde(default, skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// Which events the handler gets.
    #[serde(default)]
    pub filter: Filter,
    /// How events reach the user's container.
    pub delivery: Delivery,
    /// Where dead letters go; `None`: they are kept beside the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<TopicAddress>,
    /// Where replies go; `None`: a response's body is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<TopicAddress>,
    /// How long the broker waits for an acknowledgement before it gives an event to somebody else.
    #[serde(with = "millis")]
    pub ack_wait: Duration,
    /// What changes of the handler's place in the topic left behind.
    #[serde(default, skip_serializing_if = "Relocation::is_none")]
    pub relocation: Relocation,
}

impl Sidecar {
    /// The handler's UID as it stands in what is stored ([`Relocation::incarnation`]).
    pub fn incarnation(&self) -> String {
        self.relocation.incarnation(&self.handler_uid)
    }
}

impl Sidecar {
    /// The EventHandler's own name.
    pub fn handler_name(&self) -> &str {
        crate::layout::handler_named(&self.namespace, &self.handler).1
    }
}

/// How a topic's events travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Routing {
    /// Through a stream: stored, acknowledged.
    #[default]
    Queued,
    /// From publisher to subscriber: not stored, at most once.
    Direct,
}

/// Which events a handler gets. All of what is given must hold; an empty list asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// Event types, or `prefix.*` for every type beneath a prefix. The broker sees to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Sources, exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// A CEL expression over the event that must be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// The ingress of a topic of the same namespace, to publish to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopicAddress {
    /// The EventTopic's name.
    pub topic: String,
    /// Its ingress, `https://host`.
    pub url: String,
    /// The file with the certificate authority of that address, PEM.
    pub ca: PathBuf,
    /// The file with the handler's key for that topic's message ids ([`crate::message_id::HandlerKey`]).
    pub message_id_key: PathBuf,
}

/// The shape of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum Format {
    /// One event a request: attributes as `ce-…` headers, data as body.
    #[default]
    Binary,
    /// One event a request, as a JSON document.
    Structured,
    /// Several events a request, as a JSON array.
    Batch {
        /// Events at most.
        max_events: u16,
        /// A batch that is not full waits this long for further events.
        #[serde(with = "millis")]
        max_wait: Duration,
    },
}

/// In which order events are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Each as soon as it can be.
    #[default]
    None,
    /// Events of one key one at a time and in the order of the stream; there are this many lanes.
    Key {
        /// From 1 to the number of partitions.
        lanes: u16,
    },
}

impl Format {
    /// Events in flight in one pod at most: `concurrency`, or, in batches, as many as fit into that many requests, but
    /// no more than [`MAX_IN_FLIGHT`] (or one batch, if that is larger).
    pub fn slots(self, concurrency: u16) -> usize {
        let concurrency = usize::from(concurrency);
        match self {
            Self::Binary | Self::Structured => concurrency,
            Self::Batch { max_events, .. } => {
                let max_events = usize::from(max_events.max(1));
                concurrency.saturating_mul(max_events).min(MAX_IN_FLIGHT.max(max_events))
            }
        }
    }
}

impl Delivery {
    /// Events in flight in one pod at most.
    pub fn slots(&self) -> usize {
        self.format.slots(self.concurrency)
    }
}

/// Events in flight in one pod at most, however many batches there may be.
const MAX_IN_FLIGHT: usize = 4096;

/// Deliveries in a time, over all replicas of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// How many; at least 1.
    pub events: u32,
    /// In which time.
    #[serde(with = "millis")]
    pub per: Duration,
}

/// Where the port of the user's container was named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortSource {
    /// By `delivery.port`.
    #[default]
    Setting,
    /// By the container, as its first `containerPort`.
    Container,
}

impl PortSource {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How events reach the user's container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delivery {
    /// The port the user's container listens on.
    pub port: u16,
    /// Where that port was named.
    #[serde(default, skip_serializing_if = "PortSource::is_default")]
    pub port_source: PortSource,
    /// The path events are posted to; starts with `/`.
    pub path: String,
    /// The shape of a delivery.
    #[serde(default)]
    pub format: Format,
    /// In which order.
    #[serde(default)]
    pub order: Order,
    /// Events in flight at most.
    pub concurrency: u16,
    /// Deliveries in a time; `None`: as many as there can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The limit of one attempt.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// What to do after an attempt that may succeed later.
    pub retry: Retry,
    /// What becomes of an event that no further attempt is made of. With [`Order::Key`] only.
    #[serde(default, skip_serializing_if = "OnExhausted::is_default")]
    pub on_exhausted: OnExhausted,
    /// What becomes of old events; `None`: the same as of new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
}

/// What the ingress of a broker needs to know. Its topics are not in here: a topic restarts no ingress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingress {
    /// The broker's namespace.
    pub namespace: String,
    /// The EventBroker's name.
    pub broker: String,
    /// The folder with [`TOPICS_FILE`], which says which topics there are.
    pub topics: PathBuf,
    /// Broker addresses in order of preference, the pod's own first, `tls://host:port`.
    pub servers: Vec<String>,
    /// Folder of [`crate::identity::file`]s; its certificate also serves HTTPS.
    pub identity: PathBuf,
    /// The port of the HTTPS listener.
    pub https_port: u16,
    /// The port of the plain listener for probes: `/livez`, `/readyz`, and `/broker/{startup,ready,live}`.
    pub admin_port: u16,
    /// The broker's own monitoring address on loopback, `http://127.0.0.1:8222`: the probes of the broker
    /// container go through the ingress, which shows nothing of it but health.
    pub broker_monitor: String,
    /// Where the ingress wakes the broker beside it ([`crate::wake`]), `host:port`. The host is a name of its certificate.
    pub broker_wake: String,
    /// The port of the MQTT listener (TLS).
    pub mqtt_port: u16,
    /// A folder on the broker's volume, to see how full it is; `None`: the broker has no volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<PathBuf>,
    /// How much it takes at a time.
    #[serde(default)]
    pub capacity: Capacity,
    /// What a server that is the broker's only one does before it acknowledges an event. (How many there are changes while
    /// the ingress runs: [`Topics::several_servers`].)
    #[serde(default)]
    pub flush: Flush,
    /// Certificates besides its own, for clients that ask for their host names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<AccessCertificate>,
}

/// A certificate for clients from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessCertificate {
    /// Folder with the certificate and its key, which may come later and be replaced.
    pub folder: PathBuf,
    /// Host names, also `*.example.com`.
    pub hosts: Vec<String>,
}

/// What a broker does before it acknowledges an event. It decides whether an ingress gathers events to batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flush {
    /// It flushes what many publishers sent together (the log of a cluster), or flushes later: an event on its own
    /// costs no more than in a batch.
    #[default]
    Shared,
    /// It flushes each commit to disk by itself: a batch costs little more than an event.
    PerCommit,
}

/// The shortest `deduplicationWindow` with which a stream takes atomic batches. When the answer to a batch is lost, its
/// ingress sends the events again, and the broker must still recognise those that it stored.
pub const MIN_BATCH_WINDOW: Duration = Duration::from_secs(10);

/// How much an ingress takes at a time; `None`: what suits most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// Connections over HTTPS and over MQTT, each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,
    /// Memory of the requests in progress, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_memory_kib: Option<u32>,
}

/// What a sidecar says of itself on [`crate::layout::report_subject`], at every change and every
/// [`REPORT_PERIOD`]. It is state, not history: the newest of a pod counts, and one that is no longer repeated
/// is forgotten after three periods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The pod's name.
    pub pod: String,
    /// Why the handler's container is considered down as a whole; `None`: it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<String>,
    /// How much the handler works; `None`: the sidecar is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// The address on which the handler listens for others than its own pod, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed: Option<String>,
    /// Whether the handler listens on loopback alone. Neither this nor an address: it is not known.
    #[serde(default)]
    pub loopback_only: bool,
    /// How deliveries ended lately.
    #[serde(default)]
    pub outcomes: Outcomes,
    /// The [generation](crate::identity::generation) of the identity that the pod has; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// How much a handler's container works. Reported every second while it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Events at the handler in the last second, on average, in thousandths. Events that wait for a retry are not.
    pub running_milli: u64,
    /// Attempts that succeeded, since the sidecar started.
    pub succeeded: u64,
    /// Attempts that failed or were refused, since the sidecar started.
    pub failed: u64,
}

/// How often a sidecar repeats its [`Report`].
pub const REPORT_PERIOD: Duration = Duration::from_secs(10);

pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
