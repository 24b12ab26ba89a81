//! Which events a handler receives.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Conditions on the events that a handler receives. An event must meet all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Event types, each exact, such as com.shop.order.created, or a prefix with all types beneath it, such as
    /// com.shop.order.*; at most 16, of at most 256 characters. The broker applies them, so events of other types cost
    /// the handler nothing. Default: all types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(t, t != '*' && !t.startsWith('*') && (!t.contains('*') || (t.endsWith('.*') && t.indexOf('*') == t.size() - 1)))").message("filter.types: a * may only stand for everything beneath a prefix, at the end, such as com.shop.order.*; leave types out for all events"))]
    pub types: Vec<String>,
    /// Exact event sources; at most 64, of at most 1024 characters. The sidecar acknowledges events from other sources
    /// without delivering them. Default: all sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub sources: Vec<String>,
    /// CEL expression that must be true for the event, such as data.amount > 100 && event.subject == 'eu'; at most 4096
    /// bytes. event has the attributes (event.id, event.source, event.type, event.time, every extension), all of them
    /// strings; data is the event's JSON data, or a string, or bytes. An expression that fails on an event, for example
    /// because a field is missing, counts as false; has(data.amount) tests for a field. An event whose evaluation would
    /// take more than about a second becomes a dead letter (filter-too-costly). kubectl apply refuses an expression that
    /// is not valid. One that is accepted while the operator is unavailable is not used: the handler keeps its former
    /// filter, and the condition Stalled names the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: Option<String>,
}
