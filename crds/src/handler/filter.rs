//! Which events a handler receives.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Events that a handler receives: those for which everything that is given here holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Event types, either exact, such as com.shop.order.created, or all types beneath a prefix, such as
    /// com.shop.order.*; at most 16. The broker applies them, so events of other types cost this handler nothing.
    /// Default: all types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(t, t != '*' && !t.startsWith('*') && (!t.contains('*') || (t.endsWith('.*') && t.indexOf('*') == t.size() - 1)))").message("filter.types: a * may only stand for everything beneath a prefix, at the end, such as com.shop.order.*; leave types out for all events"))]
    pub types: Vec<String>,
    /// Exact event sources, at most 64. The sidecar acknowledges events of other sources without delivering them.
    /// Default: all sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub sources: Vec<String>,
    /// CEL expression that must be true for the event, such as data.amount > 100 && event.subject == 'eu'; at most 4096
    /// bytes. event has the attributes (event.id, event.source, event.type, event.time, every extension), all of them
    /// strings; data is the event's JSON data, or a string, or bytes. An expression that fails on an event, for example
    /// because a field is missing, counts as false; has(data.amount) asks first. An event whose evaluation would take
    /// more than about a second becomes a dead letter (filter-too-costly). kubectl apply refuses an expression that is
    /// not valid; while no operator answers, it is accepted, the condition Stalled says why it is not used, and the
    /// handler keeps its former filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: Option<String>,
}
