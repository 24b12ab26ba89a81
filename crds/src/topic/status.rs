//! What the operator says of a topic.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::HasConditions;
use crate::key::PublisherKeyStatus;
use crate::schema;

/// State of the topic as the operator saw it last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventTopicStatus {
    /// Conditions. Ready sums up Granted (where the broker is of another namespace), BrokerAvailable, StreamReady, Addressable
    /// (the ingresses take events for it), StorageHealthy and HasRoom (reason Filling from 80 % on, and False while
    /// publishers are refused); DataLost says that stored events are gone; Stalled says that a person has to
    /// do something.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the specification that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Addresses to publish to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Number of bytes that the broker has promised to the topic: for events, dead letters, retries, attempts and delayed
    /// events together. They are the topic's until its specification asks for fewer, or it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<i64>,
    /// Number of events that are stored, handled or not. Refreshed about once a minute while it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<i64>,
    /// Number of bytes that they take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Share of the room for events that is in use, such as 73%. With whenFull: ReleaseHandled events that are
    /// handled are part of it until room is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<String>,
    /// Sequence number of the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sequence: Option<i64>,
    /// Record of the stream of events, by which a loss of stored events is noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamRecord>,
    /// Last loss of stored events that was noticed. It stays, with condition DataLost, until the annotation
    /// tidegate.io/acknowledge-data-loss of the EventTopic has the value of its field detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_loss: Option<DataLoss>,
    /// Events that the server which leads the stream of events lacks, and that may come back. Condition DataLost says which,
    /// and how to give them up. Unset where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_events: Option<MissingEvents>,
    /// Number of dead letters that are kept: events that a handler refused or failed at too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
    /// Number of handlers with a consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handlers: Option<i64>,
    /// Names of the publishers over NATS that have an account, or are about to have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nats_publishers: Vec<String>,
    /// Keys of the publishers over NATS. Another value of the annotation rotate.tidegate.io/<publisher> of the EventTopic
    /// replaces the key of that publisher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nats_publisher_keys: Vec<PublisherKeyStatus>,
}

/// Record of the stream of events. Refreshed about once a minute while it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamRecord {
    /// Time at which the stream was created.
    #[schemars(schema_with = "schema::date_time")]
    pub created: String,
    /// Sequence number of the first event.
    pub first_sequence: i64,
    /// Sequence number of the last event, which may have been removed.
    pub last_sequence: i64,
    /// Number of events that are missing between them.
    pub missing: i64,
    /// Sequence number up to which events that every handler had settled were removed for room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<i64>,
    /// Whether the retention may remove the oldest events at any time (maxAge, or whenFull: DropOldest).
    pub removes: bool,
    /// End of the stream that was acknowledged to publishers and then lost, the last time that this happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_tail: Option<LostTail>,
}

/// End of a stream that is gone: its sequence numbers are used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostTail {
    /// Sequence number of the first event that is gone.
    pub first: i64,
    /// Sequence number of the last one.
    pub last: i64,
    /// Time at which it was noticed, by an ingress or by the operator.
    #[schemars(schema_with = "schema::date_time")]
    pub noticed: String,
    /// Whether the loss was acknowledged with the topic's annotation.
    #[serde(default)]
    pub acknowledged: bool,
}

/// A loss of stored events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataLoss {
    /// Time at which it was noticed.
    #[schemars(schema_with = "schema::date_time")]
    pub detected: String,
    /// Events that are gone, in words.
    pub message: String,
}

/// Events that are missing and may come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingEvents {
    /// Time since which events are missing, and it is known or not known that another server has them.
    #[schemars(schema_with = "schema::date_time")]
    pub since: String,
    /// Whether another server is known to have them. Otherwise one may have them that does not answer, or whose copy is still
    /// being made.
    pub elsewhere: bool,
}

/// Addresses to publish to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// HTTPS address that takes CloudEvents by POST.
    pub url: String,
    /// Address that takes CloudEvents over MQTT (3.1.1 or 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt_url: Option<String>,
    /// Address that takes CloudEvents over NATS, as requests to the subject publish, with the Secret of a publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_url: Option<String>,
    /// Certificate authorities that verify the certificate of these addresses, as PEM. ConfigMap <topic>-ca has the same in its
    /// key ca.crt.
    #[serde(default, rename = "CACerts", skip_serializing_if = "Option::is_none")]
    pub ca_certs: Option<String>,
    /// Audience that a ServiceAccount token must have to be taken here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

impl HasConditions for EventTopicStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}
