//! Events that the topic publishes by itself, again and again.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Event that the topic publishes by itself, again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cron) != has(self.every)").message("each schedule must have either cron, such as \"0 2 * * *\", or every, such as 15m"),
    validation = Rule::new("!has(self.timeZone) || has(self.cron)").message("timeZone belongs to cron; remove it, or use cron instead of every").field_path(".timeZone"),
)]
pub struct Schedule {
    /// Name, unique in the list; at most 40 lower-case letters, digits and '-'. The id of each event begins with it.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Times at which the event is published, as minute, hour, day of month, month and day of week, with a second before
    /// them if there are six fields. Such as "0 2 * * *" (at 02:00) or "*/10 * * * * *" (every ten seconds). Each field is *,
    /// a number, a range such as 1-5, a step such as */15, or a list of these; months and days may be jan to dec and sun to
    /// sat. If neither day is *, one of them is enough. At most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9A-Za-z*?,/-]+( [0-9A-Za-z*?,/-]+){4,5}$')").message("cron must have five fields (minute hour day-of-month month day-of-week) or six (second first), separated by single spaces, such as \"0 2 * * *\""))]
    pub cron: Option<String>,
    /// Time between two events. A duration in whole seconds such as 15m, from 1s to 8760h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message("every must be between 1s and 8760h"))]
    pub every: Option<Duration>,
    /// Time zone of cron, a name of the IANA database such as Europe/Berlin. Default: UTC. The broker's image must have the
    /// database, which the tag -alpine of the image nats has, and the plain one has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"))]
    pub time_zone: Option<String>,
    /// Event that is published.
    pub event: ScheduledEvent,
}

/// Event that is published by a schedule. Its id is <name>-<time>-<number>, its time that of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledEvent {
    /// Type of the event, such as com.example.report.due. At most 200 characters.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 200))]
    pub event_type: String,
    /// Source of the event, a URI-reference such as /schedules. At most 200 characters.
    #[schemars(length(min = 1, max = 200))]
    pub source: String,
    /// Subject of the event. At most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub subject: Option<String>,
    /// Data of the event, as text. At most 4096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub data: Option<String>,
    /// Media type of the data. Default: application/json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 100))]
    pub data_content_type: Option<String>,
}
