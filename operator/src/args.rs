//! The command line. Every flag is also an environment variable, which is what the chart sets.

use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

/// What a container of ours asks for where nothing else is said, as in a pod.
pub type Resources = serde_json::Map<String, serde_json::Value>;

/// Peers of a NetworkPolicy.
pub type Peers = Vec<serde_json::Value>;

/// Tidegate's operator: reconciles EventBroker, EventTopic and EventHandler.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Image of the sidecar that delivers events in handler pods.
    #[arg(long, env = "TIDEGATE_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// Image of the ingress container in broker pods.
    #[arg(long, env = "TIDEGATE_INGRESS_IMAGE")]
    pub ingress_image: String,
    /// Image of the broker container, a nats-server of version 2.15.2 or later.
    #[arg(long, env = "TIDEGATE_BROKER_IMAGE")]
    pub broker_image: String,
    /// Pull policy of these three.
    #[arg(long, env = "TIDEGATE_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Resources of sidecars whose handler names none: JSON, as in a pod.
    #[arg(long, env = "TIDEGATE_SIDECAR_RESOURCES", value_parser = resources, default_value = r#"{"requests":{"cpu":"10m","memory":"16Mi"}}"#)]
    pub sidecar_resources: Resources,
    /// Resources of ingresses whose broker names none: JSON, as in a pod.
    #[arg(long, env = "TIDEGATE_INGRESS_RESOURCES", value_parser = resources, default_value = r#"{"requests":{"cpu":"20m","memory":"16Mi"}}"#)]
    pub ingress_resources: Resources,
    /// As whom our containers run in pods of brokers and handlers: a number, which is the user, the group and the group of
    /// the volumes, or "assigned" where the platform sets them, as OpenShift does.
    #[arg(long, env = "TIDEGATE_POD_USER", default_value = "65532")]
    pub pod_user: PodUser,
    /// Secrets, of the namespaces of brokers and handlers, with which nodes pull the images: names separated by commas.
    #[arg(long, env = "TIDEGATE_POD_PULL_SECRETS", value_delimiter = ',')]
    pub pod_pull_secrets: Vec<String>,
    /// Specification of the EventBroker that is made for a topic that names none: JSON.
    #[arg(long, env = "TIDEGATE_DEFAULT_BROKER", value_parser = resources, default_value = "{}")]
    pub default_broker: Resources,
    /// Seconds for which a replaced key of a handler or publisher works beside the new one: longer than a kubelet takes to
    /// bring a changed Secret to its pods (90 s as a rule), and 10 s more.
    #[arg(long, env = "TIDEGATE_KEY_HANDOVER_SECONDS", default_value_t = 180)]
    pub key_handover_seconds: u32,
    /// Where sidecars and ingresses send their telemetry, an OTLP gRPC address. The operator's own uses the same
    /// variable.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Where metrics of the operator, of sidecars and of ingresses go: a list of otlp and prometheus, or none. Without it,
    /// otlp where there is an address for it.
    #[arg(long, env = "OTEL_METRICS_EXPORTER")]
    pub metrics_exporter: Option<String>,
    /// From where the metrics of sidecars and ingresses may be scraped, where the cluster's network enforces NetworkPolicies:
    /// their peers, JSON.
    #[arg(long, env = "TIDEGATE_METRICS_FROM", value_parser = peers, default_value = "[]")]
    pub metrics_from: Peers,
    /// The operator's pod, which holds the lease.
    #[arg(long, env = "POD_NAME", default_value = "tidegate-operator")]
    pub pod_name: String,
    /// The operator's namespace: where the lease is, and from where the brokers can be reached besides their handlers.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,
    /// Namespace of the cluster's lease, the same for every release: its holder operates all topics and handlers.
    #[arg(long, env = "TIDEGATE_CLUSTER_LEASE_NAMESPACE", default_value = "kube-system")]
    pub cluster_lease_namespace: String,
    /// Name of the operator's HTTPS: of its Service, of the Secret with its certificate, and of the
    /// ValidatingWebhookConfiguration. Without it there is none.
    #[arg(long, env = "TIDEGATE_WEBHOOK")]
    pub webhook: Option<String>,
    /// Serve the aggregated API subresources.tidegate.io there too.
    #[arg(long, env = "TIDEGATE_SUBRESOURCES", default_value_t = false, action = clap::ArgAction::Set)]
    pub subresources: bool,
    /// Port of the operator's HTTPS. (A variable TIDEGATE_WEBHOOK_PORT is what Kubernetes makes of its Service.)
    #[arg(long, env = "TIDEGATE_ADMISSION_PORT", default_value_t = 8443)]
    pub webhook_port: u16,
    /// Port of `/livez` and `/readyz`.
    #[arg(long, env = "TIDEGATE_ADMIN_PORT", default_value_t = 8080)]
    pub admin_port: u16,
}

impl Args {
    /// For how long a replaced key works beside the new one.
    pub fn key_handover(&self) -> Duration {
        Duration::from_secs(self.key_handover_seconds.into())
    }
}

/// As whom containers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodUser {
    /// As this user and group.
    Fixed(u32),
    /// The platform says: a pod that names its user is refused there.
    Assigned,
}

impl FromStr for PodUser {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "assigned" {
            return Ok(Self::Assigned);
        }
        // The containers say that they never run as root.
        let number = text.parse().ok().filter(|number| *number > 0);
        number.map(Self::Fixed).ok_or_else(|| "a user is \"assigned\" or a number from 1".to_owned())
    }
}

fn resources(text: &str) -> Result<Resources, serde_json::Error> {
    serde_json::from_str(text)
}

fn peers(text: &str) -> Result<Peers, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_assigned_and_never_root() {
        assert_eq!("65532".parse(), Ok(PodUser::Fixed(65532)));
        assert_eq!("assigned".parse(), Ok(PodUser::Assigned));
        for wrong in ["0", "", "-1", "nobody", "4294967296"] {
            assert!(wrong.parse::<PodUser>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pull_secrets_are_a_list() {
        let parsed = |secrets: &str| {
            let images = ["x", "--sidecar-image", "s", "--ingress-image", "i", "--broker-image", "b"];
            Args::parse_from(images.into_iter().chain(["--pod-pull-secrets", secrets])).pod_pull_secrets
        };
        assert_eq!(parsed("one,two"), ["one", "two"]);
    }
}
