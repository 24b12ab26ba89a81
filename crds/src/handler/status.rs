//! What the operator saw of a handler.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RedriveStatus, Scaling};
use crate::conditions::HasConditions;
use crate::schema;

/// What the operator saw of the handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventHandlerStatus {
    /// Ready sums up; TopicReady, Subscribed and PodsReady say what of it is there; HandlerAvailable whether the
    /// containers answer; Stalled says that a person has to do something.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The generation of the specification this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The pods' label selector, for kubectl scale and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Events on their way. Refreshed about every ten seconds while they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// How many pods there should be, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// How far the last redrive is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<RedriveStatus>,
}

impl HasConditions for EventHandlerStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

/// Events on their way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Events that no pod has been given yet.
    pub pending: i64,
    /// Events given to a pod and not yet acknowledged, those that wait for a retry included.
    pub in_flight: i64,
}
