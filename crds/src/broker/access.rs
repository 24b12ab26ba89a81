//! External access: how clients outside of the cluster reach a broker's topics.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Access entry: a Service of its own, named <broker>-access-<name>, by which clients outside of the cluster reach the
/// ingresses of the broker over HTTPS (443) and MQTT (8883).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.nodePorts) || self.type != 'ClusterIP'").message("nodePorts belong to type: NodePort or LoadBalancer; remove them, or choose one of these").field_path(".nodePorts"))]
#[x_kube(validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'").message("loadBalancerClass belongs to type: LoadBalancer; remove it, or choose that type").field_path(".loadBalancerClass"))]
#[x_kube(validation = Rule::new("!has(self.sourceRanges) || size(self.sourceRanges) == 0 || self.type == 'LoadBalancer'").message("sourceRanges belong to type: LoadBalancer; remove them, or choose that type").field_path(".sourceRanges"))]
#[x_kube(validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'").message("externalTrafficPolicy belongs to type: NodePort or LoadBalancer; remove it, or choose one of these").field_path(".externalTrafficPolicy"))]
#[x_kube(validation = Rule::new("!has(self.certificate) || (has(self.hostnames) && size(self.hostnames) > 0)").message("certificate: name in hostnames which host names it is good for; clients that ask for another name are shown the broker's own certificate").field_path(".certificate"))]
#[x_kube(validation = Rule::new("!has(self.hostnames) || self.hostnames.all(host, !host.endsWith('.svc') && !host.endsWith('.svc.cluster.local'))").message("hostnames are those of clients from outside: names that end in .svc or .svc.cluster.local are those of the cluster's own Services, which the broker's certificate is for anyway; remove them").field_path(".hostnames"))]
pub struct Access {
    /// Name of the access entry; at most 15 lower-case letters, digits and '-'.
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Type of the Service. LoadBalancer (the default), NodePort, or ClusterIP for a gateway that passes TLS through.
    #[serde(default, rename = "type")]
    pub service_type: AccessType,
    /// Host names by which clients over HTTPS reach the Service, such as events.example.com or *.example.com; at most 16.
    /// Making them resolve is the user's part. The broker's own certificate is made for them too, unless certificate is set.
    /// Names of the cluster's own Services (ending in .svc or .svc.cluster.local) are refused.
    /// A client names the topic by the path of its URL: https://events.example.com/<namespace>/<topic>. Over MQTT a
    /// device names the topic by its user name, <namespace>/<topic>, or by the host of its TLS handshake (SNI), where that is
    /// the topic's own (that of status.address.mqttUrl) wherever it connects to.
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
    /// Certificate presented to clients that connect to one of hostnames. Default: the broker's own, which its topics' CA
    /// ConfigMaps verify. Another secretName, or other hostnames beside it, restart the broker's pods one by one; a renewed
    /// Secret does not.
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
    /// Routing of external traffic. Cluster (the default of Kubernetes) spreads it over all pods and hides the clients'
    /// addresses, so that all clients that come by one node share what one address may have. Local keeps the addresses, and
    /// only nodes with a pod of the broker take traffic.
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

/// Routing of external traffic. Cluster (the default of Kubernetes) spreads it over all pods and hides the clients'
/// addresses, so that all clients that come by one node share what one address may have. Local keeps the addresses, and
/// only nodes with a pod of the broker take traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// To any pod.
    Cluster,
    /// To the pods of the node that it came to.
    Local,
}

/// Certificate presented to clients that connect to one of hostnames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessCertificate {
    /// Name of a Secret of the broker's namespace with tls.crt (the certificate and those between it and its root) and
    /// tls.key, as cert-manager makes it. A renewed certificate is taken over about a minute after it is there, without a
    /// restart. While it cannot be used, condition AccessReady says why, and the last good one stays in use.
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

/// State of an access entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessStatus {
    /// Name of the access entry.
    pub name: String,
    /// IP addresses and host names of its load balancer; at most 16 are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Ports of the nodes on which it can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ports: Option<NodePorts>,
}
