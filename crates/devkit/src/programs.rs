//! The programs of the node: their arguments, and what each needs before it can start.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{NODE_IP, NODE_NAME, SERVICE_NETWORK};
use crate::images::HELPER_IMAGE;
use crate::manifests::{STORAGE_NAMESPACE, STORAGE_SCRIPTS};
use crate::pki::FRONT_PROXY;
use crate::state::State;

const ETCD_PORT: u16 = 2379;

/// A program of the node.
pub struct Program {
    /// Its name, also that of its log.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What must be there first. A program started too early would give up.
    pub needs: Vec<Need>,
}

/// Something another program of the node offers.
pub enum Need {
    /// This port of the node's loopback is open.
    Port(u16),
    /// This socket accepts connections.
    Socket(PathBuf),
}

impl Need {
    /// Whether it is there now.
    pub fn met(&self) -> bool {
        match self {
            Self::Port(port) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
            }
            Self::Socket(path) => UnixStream::connect(path).is_ok(),
        }
    }
}

/// Where the arguments are that a node was started with.
const RECORD: &str = "programs";

/// Writes down with which arguments the node's programs were started.
///
/// # Errors
/// The file cannot be written.
pub fn record(state: &State, port: u16) -> std::io::Result<()> {
    fs::write(state.join(RECORD), command_lines(state, port))
}

/// Whether the node's programs were started with the arguments that this build gives them.
pub fn are_of_this_build(state: &State, port: u16) -> bool {
    fs::read_to_string(state.join(RECORD)).is_ok_and(|recorded| recorded == command_lines(state, port))
}

fn command_lines(state: &State, port: u16) -> String {
    let line = |program: Program| format!("{} {}\n", program.name, program.arguments.join(" "));
    all(state, port).into_iter().map(line).collect()
}

/// All programs, in an order that meets their needs.
pub fn all(state: &State, port: u16) -> Vec<Program> {
    let api = || vec![Need::Port(port)];
    // Without the API server a kubelet would start, but try to register ever more slowly.
    let kubelet_needs = vec![Need::Socket("/run/containerd/containerd.sock".into()), Need::Port(port)];
    let program = |name, needs, arguments| Program { name, arguments, needs };
    vec![
        program("etcd", vec![], etcd(state)),
        program("containerd", vec![], vec![format!("--config={}", state.text("etc/containerd.toml"))]),
        program("kube-apiserver", vec![Need::Port(ETCD_PORT)], api_server(state, port)),
        program("kubelet", kubelet_needs, kubelet(state)),
        program("kube-controller-manager", api(), controller_manager(state)),
        program("kube-scheduler", api(), scheduler(state)),
        program("kube-proxy", api(), vec![format!("--config={}", state.text("etc/proxy.json"))]),
        program("coredns", api(), vec!["-conf".into(), state.text("etc/Corefile")]),
        program("local-path-provisioner", api(), storage(state)),
    ]
}

/// A cluster for tests does not outlive its machine, so nothing needs to be on disk at once.
fn etcd(state: &State) -> Vec<String> {
    vec![
        format!("--data-dir={}", state.text("var/etcd")),
        "--unsafe-no-fsync".into(),
        format!("--listen-client-urls=http://127.0.0.1:{ETCD_PORT}"),
        format!("--advertise-client-urls=http://127.0.0.1:{ETCD_PORT}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
    ]
}

/// The port is the same inside and outside, so that one kubeconfig is good in both places.
fn api_server(state: &State, port: u16) -> Vec<String> {
    let pki = |flag: &str, file: &str| format!("--{flag}={}", state.join("pki").join(file).display());
    vec![
        format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
        format!("--secure-port={port}"),
        // Not loopback: it becomes the endpoint of the `kubernetes` Service.
        format!("--advertise-address={NODE_IP}"),
        format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--kubelet-preferred-address-types=InternalIP".into(),
        pki("tls-cert-file", "apiserver.crt"),
        pki("tls-private-key-file", "apiserver.key"),
        pki("client-ca-file", "ca.crt"),
        // Aggregated APIs know by these for whom it asks. Their Services are reached as pods reach them.
        pki("requestheader-client-ca-file", "front-proxy-ca.crt"),
        pki("proxy-client-cert-file", "front-proxy.crt"),
        pki("proxy-client-key-file", "front-proxy.key"),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--enable-aggregator-routing".into(),
        pki("service-account-key-file", "sa.pub"),
        pki("service-account-signing-key-file", "sa.key"),
        pki("kubelet-client-certificate", "admin.crt"),
        pki("kubelet-client-key", "admin.key"),
        pki("kubelet-certificate-authority", "ca.crt"),
    ]
}

fn controller_manager(state: &State) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", state.text("kubeconfig")),
        format!("--service-account-private-key-file={}", state.text("pki/sa.key")),
        format!("--root-ca-file={}", state.text("pki/ca.crt")),
        format!("--cluster-signing-cert-file={}", state.text("pki/ca.crt")),
        format!("--cluster-signing-key-file={}", state.text("pki/ca.key")),
        "--use-service-account-credentials".into(),
        "--leader-elect=false".into(),
        // The default of 20 makes its own start, a token for each controller, take six seconds longer.
        "--kube-api-qps=200".into(),
        "--kube-api-burst=400".into(),
        // Its default is a folder of the host.
        format!("--flex-volume-plugin-dir={}", state.text("var/lib/kubelet/volume-plugins")),
    ]
}

fn scheduler(state: &State) -> Vec<String> {
    vec![format!("--kubeconfig={}", state.text("kubeconfig")), "--leader-elect=false".into()]
}

fn kubelet(state: &State) -> Vec<String> {
    vec![
        format!("--config={}", state.text("etc/kubelet.json")),
        format!("--kubeconfig={}", state.text("etc/kubelet.conf")),
        format!("--node-ip={NODE_IP}"),
        format!("--hostname-override={NODE_NAME}"),
    ]
}

fn storage(state: &State) -> Vec<String> {
    let arguments = [
        ("--kubeconfig", state.text("kubeconfig")),
        ("--config", state.text("etc/storage.json")),
        ("--helper-pod-file", state.text("etc/helper-pod.json")),
        ("--helper-image", HELPER_IMAGE.to_owned()),
        ("--namespace", STORAGE_NAMESPACE.to_owned()),
        ("--configmap-name", STORAGE_SCRIPTS.to_owned()),
    ];
    let pairs = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    std::iter::once("start".to_owned()).chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::MODULES;

    fn programs() -> Vec<Program> {
        all(&State { name: "test".into(), root: "/cache/cluster/test".into() }, 1234)
    }

    #[test]
    fn every_program_is_one_we_build() {
        for program in programs() {
            assert!(MODULES.iter().any(|module| module.programs.contains(&program.name)), "{}", program.name);
        }
    }

    #[test]
    fn what_an_earlier_build_started_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let state = State { name: "test".into(), root: folder.path().into() };
        assert!(!are_of_this_build(&state, 1234), "it wrote nothing down");
        record(&state, 1234).unwrap();
        assert!(are_of_this_build(&state, 1234));
        let recorded = fs::read_to_string(state.join(RECORD)).unwrap();
        fs::write(state.join(RECORD), recorded.replace("--enable-aggregator-routing", "")).unwrap();
        assert!(!are_of_this_build(&state, 1234));
    }

    #[test]
    fn the_api_server_listens_where_its_clients_look() {
        let programs = programs();
        let server = programs.iter().find(|program| program.name == "kube-apiserver").unwrap();
        assert!(server.arguments.contains(&"--secure-port=1234".to_owned()));
        let scheduler = programs.iter().find(|program| program.name == "kube-scheduler").unwrap();
        assert!(matches!(scheduler.needs[..], [Need::Port(1234)]));
    }

    #[test]
    fn a_need_is_met_when_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Need::Port(listener.local_addr().unwrap().port()).met());
        // The port of tcpmux, which no one has any more. One that was just closed may be another's already.
        assert!(!Need::Port(1).met());
    }
}
