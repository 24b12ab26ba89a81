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
    /// Conditions. Ready says that a majority of the pods is ready (BrokerAvailable) and that every way of spec.access is
    /// open (AccessReady); TokensAccepted, that the keys are known by which tokens of ServiceAccounts are verified;
    /// CertificatesAccepted, where clientCertificates is set, that its authorities are; InUse, while the broker is being
    /// deleted, which topics are on it; Resizing, while its volumes are smaller than storage.size, what that waits for;
    /// Stalled says that a person has to do something; Reconciling, while the pods are restarted one by one, what the next
    /// one waits for, and while the number of servers or their store changes, which step that is at.
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
    /// State of each way of spec.access.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessStatus>,
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

impl HasConditions for EventBrokerStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}
