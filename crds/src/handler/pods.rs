//! The parts of a handler's pods that Tidegate adds, as far as they can be set.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::schema;

/// The sidecar that delivers events in each pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Requests and limits of the sidecar's container, as in a pod. Default: those of the installation
    /// (sidecar.resources of the chart; 10m CPU and 16Mi memory requested, no limits). An idle sidecar uses about 12 MiB.
    /// Under load it holds up to 32 MiB of events and answers, and one more event or answer of the largest size: a memory
    /// limit of 64Mi is enough with maxEventSize up to 1Mi, and 96Mi where filter.expression reads large data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub resources: Option<Value>,
}

/// Network access to the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodNetwork {
    /// Rules for connections to the pods, as in spec.ingress of a NetworkPolicy. Default: none, so that only the node
    /// reaches them (probes); [{}] allows all. Events need no rule: the sidecar fetches them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_objects")]
    pub ingress: Option<Value>,
}
