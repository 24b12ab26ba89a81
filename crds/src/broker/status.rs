//! What the operator says of a broker.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::broker::AccessStatus;
use crate::conditions::HasConditions;
use crate::schema;

/// State of the broker as the operator saw it last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventBrokerStatus {
    /// Conditions. Ready says that a majority of the pods is ready (BrokerAvailable) and that every entry of spec.access is
    /// open (AccessReady); TokensAccepted, that the keys are known by which tokens of ServiceAccounts are verified;
    /// CertificatesAccepted, where clientCertificates is set, that its authorities are; CertificatesCurrent, that no
    /// certificate or authority of the broker is within 14 days of its end; RollingOver, while its certificate authorities are
    /// replaced, how far that is and what it waits for; InUse, while the broker is being deleted, which
    /// topics are on it; Resizing, while its volumes are smaller than storage.size, what that waits for; Intact, whether
    /// every copy of every stream has what the others have; HasRoom, whether further topics and handlers fit; Stalled says
    /// that a person has to do something; Reconciling, while the pods are restarted one by one, the servers are to use
    /// renewed certificates, or their number or store changes, what is waited for.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the specification that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of pods that there should be now. It differs from spec.replicas while the number of servers changes.
    #[serde(default)]
    pub replicas: i32,
    /// Number of pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Whether its servers have been seen to be a cluster. From then on a server whose volume is lost does not begin a new
    /// one, which would not have the events.
    #[serde(default)]
    pub formed: bool,
    /// Number of topics that name the broker.
    #[serde(default)]
    pub topics: i64,
    /// Room on the volume of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStatus>,
    /// Raft groups of the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsStatus>,
    /// Audit of what the servers store: whether every copy of every stream has what the others have. Made after each
    /// start of a server, and every hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditStatus>,
    /// End of the broker's certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// State of each entry of spec.access.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessStatus>,
}

/// End of the broker's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// Time at which the first certificate of the servers and of the ingress ends. Certificates are renewed 30 days before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub expire: Option<String>,
    /// Time at which the first certificate authority of the broker ends. A rollover begins a year before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub authorities_expire: Option<String>,
    /// Rollover of the certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollover: Option<RolloverStatus>,
}

/// Rollover of the certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloverStatus {
    /// Stage that the rollover is at: Settled while there is none.
    pub stage: RolloverStage,
    /// Number that rises with each stage. Secrets and ConfigMaps made from the authorities carry it in the annotation
    /// tidegate.io/authority-generation.
    pub generation: i64,
    /// Value of the annotation tidegate.io/rotate that the last requested rollover was begun for, or that the broker was
    /// made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Time until which publishers are waited for in this stage. Unset while others are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub publishers_until: Option<String>,
}

/// Stage of a rollover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloverStage {
    /// There is no rollover.
    #[default]
    Settled,
    /// The next authorities are trusted beside the present ones, which still sign.
    Trusting,
    /// The next authorities sign, and the former ones are still trusted.
    Signing,
    /// The former authorities are no longer trusted.
    Dropping,
}

/// Room on the volume of each pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// Share of the usable bytes that is promised to topics, such as 63%.
    pub promised: String,
    /// Number of bytes that are promised to topics.
    pub promised_bytes: i64,
    /// Number of bytes that can be promised: 85 % of the volume.
    pub usable_bytes: i64,
}

/// Raft groups of the servers. On several servers each stream and each consumer is one: a topic has one, or three with
/// delayed events or schedules, a handler five, or three and its lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupsStatus {
    /// Number of groups that there are. Refreshed about every ten minutes, and when topics or handlers come.
    pub used: i64,
    /// Number of groups that there may be. A topic or handler that would exceed it is not admitted (reason BrokerFull).
    /// Unset for a broker of one server, on which they cost next to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<i64>,
    /// Both, such as "48 of 2000".
    pub usage: String,
}

/// Audit of what the servers store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditStatus {
    /// Time of the last audit that found nothing wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub last_passed: Option<String>,
    /// Time of the last audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub last_run: Option<String>,
    /// Servers as they were at the last audit. One that was started since then is audited again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub servers: Vec<AuditedServer>,
    /// Number of copies that lack what another server has.
    #[serde(default)]
    pub damaged_copies: i64,
    /// Copies that lack what another server has, at most 16 of them. They are made again from that server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub damaged: Vec<DamagedCopy>,
    /// Events that no server has any more, of at most 16 topics. An entry stays until the loss is acknowledged, as
    /// condition DataLost of the topic says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub lost: Vec<LostEvents>,
}

/// Server at the time of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditedServer {
    /// Name of its pod.
    pub name: String,
    /// Id that the server gave itself when it was started.
    pub id: String,
}

/// Copy of a stream that lacks what another server has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DamagedCopy {
    /// Topic, as namespace/name.
    pub topic: String,
    /// Stream of the topic: events, or one of a handler.
    pub stream: String,
    /// Pod of the server whose copy it is.
    pub server: String,
    /// Pod of a server whose copy has everything.
    pub whole: String,
    /// Number of messages that are missing; 0 if only their content differs.
    pub missing: i64,
    /// Sequence number of the first message there should be.
    pub first: i64,
    /// Sequence number of the last one.
    pub last: i64,
}

/// Events that no server has any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostEvents {
    /// Topic, as namespace/name.
    pub topic: String,
    /// Number of events that are gone.
    pub missing: i64,
    /// Sequence number of the first event there is; of a lost end, of the first event that is gone.
    pub first: i64,
    /// Sequence number of the last one.
    pub last: i64,
    /// Whether these were the last events of the topic, so that their sequence numbers are used again.
    #[serde(default)]
    pub is_tail: bool,
}

impl HasConditions for EventBrokerStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}
