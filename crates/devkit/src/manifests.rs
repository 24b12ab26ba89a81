//! The API objects every cluster has from the start: DNS for pods, and a StorageClass that provisions.

use serde_json::{Value, json};

use crate::config::{DNS_IP, NODE_IP};

/// The namespace of the storage provisioner's helper pods.
pub const STORAGE_NAMESPACE: &str = "local-path-storage";
/// The ConfigMap that those pods run their scripts from.
pub const STORAGE_SCRIPTS: &str = "local-path-config";

/// All of them, as one list for `kubectl apply`.
pub fn base() -> Value {
    let items: Vec<Value> = dns().into_iter().chain(storage()).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// CoreDNS is a process of the node, so its Service gets its endpoint by hand.
fn dns() -> [Value; 2] {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    let ports = [port("dns", "UDP"), port("dns-tcp", "TCP")];
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_IP, "ports": ports},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [NODE_IP]}],
        }),
    ]
}

fn storage() -> [Value; 4] {
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORAGE_NAMESPACE}}),
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "local-path-provisioner-service-account", "namespace": STORAGE_NAMESPACE},
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": STORAGE_SCRIPTS, "namespace": STORAGE_NAMESPACE},
            "data": {
                // Writable by all, so that pods that do not run as root can use their volumes.
                "setup": "mkdir -m 0777 -p \"$VOL_DIR\"\n",
                "teardown": "rm -rf \"$VOL_DIR\"\n",
            },
        }),
        json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_comes_before_what_is_in_it() {
        let base = base();
        let items = base["items"].as_array().unwrap();
        let place = |kind: &str| items.iter().position(|item| item["kind"] == kind).unwrap();
        assert!(place("Namespace") < place("ServiceAccount") && place("Namespace") < place("ConfigMap"));
    }

    #[test]
    fn the_dns_service_and_its_endpoint_agree() {
        let [service, slice] = dns();
        assert_eq!(service["spec"]["ports"], slice["ports"]);
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], service["metadata"]["name"]);
    }
}
