//! Ways to a broker's topics from outside of the cluster.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A way to the ingresses of a broker, for HTTPS and MQTT, beside its ClusterIP Service: a Service of its own, named
/// <broker>-access-<name>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.nodePorts) || self.type != 'ClusterIP'").message("nodePorts belong to type: NodePort or LoadBalancer; remove them, or choose one of these").field_path(".nodePorts"))]
#[x_kube(validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'").message("loadBalancerClass belongs to type: LoadBalancer; remove it, or choose that type").field_path(".loadBalancerClass"))]
#[x_kube(validation = Rule::new("!has(self.sourceRanges) || size(self.sourceRanges) == 0 || self.type == 'LoadBalancer'").message("sourceRanges belong to type: LoadBalancer; remove them, or choose that type").field_path(".sourceRanges"))]
#[x_kube(validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'").message("externalTrafficPolicy belongs to type: NodePort or LoadBalancer; remove it, or choose one of these").field_path(".externalTrafficPolicy"))]
#[x_kube(validation = Rule::new("!has(self.certificate) || (has(self.hostnames) && size(self.hostnames) > 0)").message("certificate: name in hostnames which host names it is good for; clients that ask for another name are shown the broker's own certificate").field_path(".certificate"))]
pub struct Access {
    /// Name of the way, at most 15 lower-case letters, digits and '-'.
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Type of the Service. LoadBalancer (the default), NodePort, or ClusterIP for a gateway that passes TLS through.
    #[serde(default, rename = "type")]
    pub service_type: AccessType,
    /// Host names by which clients reach the Service, such as events.example.com or *.example.com; at most 16. Making them
    /// resolve is the user's part. The broker's certificate is good for them unless the way has one of its own. A client
    /// names the topic by the path of its URL: https://events.example.com/<namespace>/<topic>. A device over MQTT names it by
    /// the host of its TLS handshake, which has to be the topic's own (that of status.address.mqttUrl), wherever it connects to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+$")
        )
    )]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub hostnames: Vec<String>,
    /// Annotations of the Service, as load balancers and DNS controllers read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Certificate that clients are shown who ask for one of hostnames. Default: the broker's own, which its topics'
    /// CA ConfigMaps verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<AccessCertificate>,
    /// Ports of the nodes. Default: the cluster chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ports: Option<NodePorts>,
    /// Class of the load balancer. Default: the cluster's. It cannot be changed while the type stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Networks whose clients the load balancer lets in, such as 203.0.113.0/24; at most 64. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 49), regex(pattern = "^[0-9a-fA-F:.]+/[0-9]{1,3}$")))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub source_ranges: Vec<String>,
    /// Policy for traffic from outside. Cluster (the default of Kubernetes) spreads it over all pods and hides the clients'
    /// addresses, so that all clients of a node share what one address may have; Local keeps the addresses, and reaches only
    /// nodes with a pod of the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
}

/// Type of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessType {
    /// An address of its own outside of the cluster.
    #[default]
    LoadBalancer,
    /// A port of every node.
    NodePort,
    /// Inside of the cluster only.
    ClusterIP,
}

/// Policy for traffic from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// To any pod.
    Cluster,
    /// To the pods of the node that it came to.
    Local,
}

/// Certificate that clients are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessCertificate {
    /// Name of a Secret of the broker's namespace with tls.crt (the certificate and those between it and its root) and
    /// tls.key, as cert-manager makes it. A new one is taken over about a minute after it is there; one that cannot be used
    /// is said in condition AccessReady, and the last good one stays in use.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Ports of the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePorts {
    /// Port for HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub https: Option<i32>,
    /// Port for MQTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub mqtts: Option<i32>,
}

/// State of a way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessStatus {
    /// Name of the way.
    pub name: String,
    /// Addresses and host names that its load balancer has; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Ports of the nodes that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ports: Option<NodePorts>,
}
