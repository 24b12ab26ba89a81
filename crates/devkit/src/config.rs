//! The configuration files of the node's programs. JSON where a program reads YAML: it is the same language.

use std::fs;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::images::{HELPER_IMAGE, PAUSE_IMAGE};
use crate::state::State;

/// The node's name, in its own UTS namespace and in the API.
pub const NODE_NAME: &str = "node";
/// The node's address. It exists only in the node's network namespace, as do those below.
pub const NODE_IP: &str = "10.200.0.2";
/// Where the node's default route points to: nobody is there.
pub const GATEWAY_IP: &str = "10.200.0.1";
/// Addresses of Services.
pub const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The API server's Service, the first address of [`SERVICE_NETWORK`].
pub const API_SERVICE_IP: &str = "10.96.0.1";
/// The Service of the cluster's DNS.
pub const DNS_IP: &str = "10.96.0.10";
const CLUSTER_NETWORK: &str = "10.244.0.0/16";
const POD_NETWORK: &str = "10.244.0.0/24";

/// Writes all of them.
///
/// # Errors
/// A certificate cannot be read or a file cannot be written.
pub fn write(state: &State, port: u16, cni_folder: &str) -> Result<()> {
    let files = [
        ("kubeconfig", pretty(&kubeconfig(state, "admin", port)?)?),
        ("etc/kubelet.conf", pretty(&kubeconfig(state, "kubelet", port)?)?),
        ("etc/kubelet.json", pretty(&kubelet(state))?),
        ("etc/proxy.json", pretty(&proxy(state))?),
        ("etc/containerd.toml", containerd(state, cni_folder)),
        ("etc/cni/pods.conflist", pretty(&pod_network())?),
        ("etc/Corefile", corefile(state)),
        ("etc/storage.json", pretty(&storage(state))?),
        ("etc/helper-pod.json", pretty(&helper_pod())?),
        // Names outside the cluster fail at once instead of timing out.
        ("etc/resolv.conf", String::new()),
    ];
    for (file, text) in files {
        fs::write(state.join(file), text).with_context(|| format!("writing {}", state.text(file)))?;
    }
    Ok(())
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

/// Certificates are inside, so that the file can be handed to any client.
fn kubeconfig(state: &State, user: &str, port: u16) -> Result<Value> {
    let embedded = |file: String| -> Result<String> {
        let path = state.join("pki").join(file);
        Ok(BASE64.encode(fs::read(&path).with_context(|| format!("reading {}", path.display()))?))
    };
    let name = format!("tidegate-{}", state.name);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": embedded("ca.crt".into())?,
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": embedded(format!("{user}.crt"))?,
            "client-key-data": embedded(format!("{user}.key"))?,
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }))
}

fn kubelet(state: &State) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": state.text("pki/ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        // The disk is the host's: neither its fullness nor our images are the kubelet's to clean up.
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": state.text("etc/resolv.conf"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": state.text("var/lib/kubelet/volume-plugins"),
        "tlsCertFile": state.text("pki/kubelet.crt"),
        "tlsPrivateKeyFile": state.text("pki/kubelet.key"),
    })
}

fn proxy(state: &State) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": state.text("kubeconfig")},
        "clusterCIDR": CLUSTER_NETWORK,
        "hostnameOverride": NODE_NAME,
        "mode": "nftables",
        // The limits belong to the host.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE every sandbox would die ("can't get final child's PID from pipe").
/// AppArmor profiles would be loaded into the host's kernel; NRI and `opt` would make folders on the host.
fn containerd(state: &State, cni_folder: &str) -> String {
    format!(
        r#"version = 3
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni_folder}"]
    conf_dir = "{cni_configuration}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
"#,
        cni_configuration = state.text("etc/cni"),
        opt = state.text("var/opt"),
    )
}

/// Point-to-point links instead of a bridge: traffic between two pods of the node is routed, so that a Service's answer
/// always comes back through its translation, whether or not the kernel has br_netfilter.
fn pod_network() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Cluster names from the API; everything else does not exist.
fn corefile(state: &State) -> String {
    let kubeconfig = state.text("kubeconfig");
    format!(
        "cluster.local:53 in-addr.arpa:53 {{
  bind {NODE_IP}
  errors
  kubernetes {{
    kubeconfig {kubeconfig}
  }}
}}
.:53 {{
  bind {NODE_IP}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"
    )
}

fn storage(state: &State) -> Value {
    let everywhere = "DEFAULT_PATH_FOR_NON_LISTED_NODES";
    json!({"nodePathMap": [{"node": everywhere, "paths": [state.text("var/volumes")]}]})
}

fn helper_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper"},
        "spec": {"containers": [{"name": "helper", "image": HELPER_IMAGE, "imagePullPolicy": "Never"}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State { name: "test".into(), root: "/cache/cluster/test".into() }
    }

    #[test]
    fn everything_the_programs_write_is_below_the_state() {
        let kubelet = kubelet(&state());
        for field in ["resolvConf", "volumePluginDir", "tlsCertFile"] {
            assert!(kubelet[field].as_str().unwrap().starts_with("/cache/cluster/test/"), "{field}");
        }
        assert!(containerd(&state(), "/bin").contains(r#"path = "/cache/cluster/test/var/opt""#));
        assert_eq!(storage(&state())["nodePathMap"][0]["paths"], json!(["/cache/cluster/test/var/volumes"]));
    }

    #[test]
    fn the_kubelet_cleans_up_nothing() {
        let kubelet = kubelet(&state());
        assert_eq!(kubelet["imageGCHighThresholdPercent"], 100);
        let thresholds = kubelet["evictionHard"].as_object().unwrap();
        assert!(thresholds.len() == 5 && thresholds.values().all(|value| value == "0%"));
    }

    #[test]
    fn containerd_finds_plugins_and_the_pause_image() {
        let text = containerd(&state(), "/tools/bin");
        assert!(text.contains(r#"bin_dirs = ["/tools/bin"]"#));
        assert!(text.contains(&format!(r#"sandbox = "{PAUSE_IMAGE}""#)));
    }

    #[test]
    fn a_kubeconfig_carries_its_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let state = State { name: "test".into(), root: folder.path().into() };
        state.create().unwrap();
        crate::pki::create(&state).unwrap();
        write(&state, 1234, "/tools/bin").unwrap();
        let config: Value = serde_json::from_slice(&fs::read(state.kubeconfig()).unwrap()).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:1234");
        let authority = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
        assert_eq!(BASE64.decode(authority).unwrap(), fs::read(state.join("pki/ca.crt")).unwrap());
    }
}
