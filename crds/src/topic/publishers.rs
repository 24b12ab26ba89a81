//! The publishers that a topic admits.

use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A publisher, and which events it may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.serviceAccount), has(self.certificate), has(self.nats), has(self.anonymous)].filter(given, given).size() == 1").message("each publisher must have exactly one of serviceAccount (such as {name: checkout}), certificate (such as {uri: \"spiffe://example.com/checkout\"}), nats (a name, such as checkout) and anonymous (true): write an entry of its own for each publisher"))]
pub struct Publisher {
    /// ServiceAccount whose tokens are taken, over HTTPS and MQTT. {} stands for every ServiceAccount of the topic's
    /// namespace. A token must have the audience status.address.audience, and be valid for at most 70 minutes from its issue
    /// to its end: ask the kubelet for an hour (expirationSeconds: 3600).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountPublisher>,
    /// Client certificate that is taken, over HTTPS and MQTT. The EventBroker says which authorities may have signed it
    /// (spec.clientCertificates).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificatePublisher>,
    /// Name of a workload that publishes over NATS; at most 40 lower-case letters, digits and '-'. It gets a Secret
    /// <topic>-publisher-<name> with address, certificate and credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub nats: Option<String>,
    /// Whether publishers that show neither a token nor a certificate are taken, over HTTPS and MQTT. Only true can be
    /// written. Whatever reaches the broker may then publish: restrict that with sources, types and NetworkPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("anonymous must be true: remove this entry to refuse publishers without a token or a certificate"))]
    pub anonymous: Option<bool>,
    /// Sources of the events that this publisher may publish; at most 16. A source as it is, or the beginning of one
    /// followed by '*', such as /shop/*. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "patterns")]
    #[x_kube(validation = Rule::new("self.all(pattern, !pattern.contains('*') || pattern.indexOf('*') == size(pattern) - 1)").message("sources: '*' must be the last character, such as /shop/*; write a source without '*' to allow exactly that one"), validation = Rule::new("self.all(pattern, size(bytes(pattern)) <= 256)").message("sources: a pattern has at most 256 bytes; allow more by a shorter beginning followed by '*', such as /shop/*"))]
    pub sources: Vec<String>,
    /// Types of the events that this publisher may publish; at most 16. A type as it is, or the beginning of one followed
    /// by '*', such as com.example.order.*. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "patterns")]
    #[x_kube(validation = Rule::new("self.all(pattern, !pattern.contains('*') || pattern.indexOf('*') == size(pattern) - 1)").message("types: '*' must be the last character, such as com.example.order.*; write a type without '*' to allow exactly that one"), validation = Rule::new("self.all(pattern, size(bytes(pattern)) <= 256)").message("types: a pattern has at most 256 bytes; allow more by a shorter beginning followed by '*', such as com.example.order.*"))]
    pub types: Vec<String>,
}

/// ServiceAccount whose tokens are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountPublisher {
    /// Name of the ServiceAccount. Default: every ServiceAccount of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// Its namespace, whose pods may then reach the broker. Default: the namespace of the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// Client certificate that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatePublisher {
    /// URI in the subject alternative names of the certificate, compared character by character, such as
    /// spiffe://example.com/ns/shop/sa/checkout. At most 256 characters.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$')").message("certificate.uri must be the whole URI in the certificate's subject alternative names, such as spiffe://example.com/ns/shop/sa/checkout"))]
    pub uri: String,
}

/// Patterns of sources or types.
fn patterns(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "minItems": 1, "maxItems": 16, "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "minLength": 1, "maxLength": 256},
    })
}
