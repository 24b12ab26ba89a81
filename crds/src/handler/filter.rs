//! Which events a handler receives.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Which events a handler receives. All of what is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Event types: exact, such as com.shop.order.created, or every type beneath a prefix, such as
    /// com.shop.order.*. The broker sees to it, so events of other types cost this handler nothing. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(t, t != '*' && !t.startsWith('*') && (!t.contains('*') || (t.endsWith('.*') && t.indexOf('*') == t.size() - 1)))").message("filter.types: a * may only stand for everything beneath a prefix, at the end, such as com.shop.order.*; leave types out for all events"))]
    pub types: Vec<String>,
    /// Sources, exact. Events of other sources are passed over by the sidecar. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub sources: Vec<String>,
    /// A CEL expression over the event that must be true, such as data.amount > 100 && event.subject == 'eu'. event
    /// has the attributes (event.id, event.source, event.type, event.time, every extension), all of them strings;
    /// data is the event's JSON data, or a string, or bytes. An expression that fails on an event, for example because
    /// a field is missing, counts as false; has(data.amount) asks first. An event whose evaluation would take
    /// more than about a second becomes a dead letter (filter-too-costly). An expression that is not valid is refused by
    /// kubectl apply; while no operator answers, it is accepted, the condition Stalled says why it is not used, and the
    /// handler keeps its former filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: Option<String>,
}
