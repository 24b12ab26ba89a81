//! The key with which a handler or a publisher shows the broker who it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Key of a user of the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Number of the key in the Secret: 1 for the first one, and one more for each that replaces another.
    pub generation: i64,
    /// Time at which it was made. Unset for a key that an earlier version derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub issued: Option<String>,
    /// Value of the annotation that asked for it, at most 253 characters. Unset if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Time until which the key before it works too. Unset when the broker refuses that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub handover_until: Option<String>,
    /// Time at which the certificate or the user in the Secret ends, whichever is first. Both are renewed 30 days before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub credentials_expire: Option<String>,
    /// Time from which on credentials must have been signed: the broker refuses those of before. Unset if it takes all
    /// that have not expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub refused_before: Option<String>,
}

/// Key of a publisher over NATS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublisherKeyStatus {
    /// Name of the publisher.
    pub name: String,
    /// Its key.
    pub key: KeyStatus,
}
