//! A Knative source that has a topic as its sink: Knative's own resolver, with the rights that the chart gives it.

use std::path::Path;
use std::process::Command;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tidegate_crds::topic::Address;

use crate::support::operator::{Operator, turn};
use crate::support::{Space, server_config};
use crate::topic::until_reason;

/// What the chart installs.
const INSTALLED: &str = include_str!("../../../manifests/install.yaml");
/// The Go module with Knative's resolver.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/knative");

/// Makes the ClusterRole that Knative's resolver aggregates, as it is installed, and returns its name.
async fn addressable_role(space: &Space) -> String {
    let mut documents = INSTALLED.split("\n---\n");
    let document = documents.find(|document| document.contains("duck.knative.dev/addressable: \"true\"")).unwrap();
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/tidegate-addressable?fieldManager=test&force=true";
    let request = http::Request::patch(path).header("content-type", "application/apply-patch+yaml");
    let role: ClusterRole = space.client.request(request.body(document.as_bytes().to_vec()).unwrap()).await.unwrap();
    role.name_any()
}

/// Writes the KUBECONFIG of a ServiceAccount that has this role and nothing else.
async fn kubeconfig(space: &Space, role: &str, file: &Path) {
    space.create::<ServiceAccount>(json!({"metadata": {"name": "knative"}})).await;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": format!("knative-{}", space.name)},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "knative", "namespace": space.name}],
    }))
    .unwrap();
    Api::all(space.client.clone()).create(&PostParams::default(), &binding).await.unwrap();
    let accounts: Api<ServiceAccount> = space.api();
    let request = TokenRequest::default();
    let token = accounts.create_token_request("knative", &PostParams::default(), &request).await.unwrap();
    let server = server_config();
    let authority = pem(&server.root_cert.unwrap()[0]);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.cluster_url.to_string(), "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {"token": token.status.unwrap().token}}],
    });
    std::fs::write(file, config.to_string()).unwrap();
}

/// A certificate as a kubeconfig has it.
fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let body = STANDARD.encode(certificate);
    STANDARD.encode(format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Go and its modules: e2e/sdk/run.sh runs it"]
async fn knative_resolves_a_topic_to_its_address() {
    let _turn = turn().await;
    let space = Space::new("knative").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
    let role = addressable_role(&space).await;
    let file = std::env::temp_dir().join(format!("tidegate-knative-{}.json", std::process::id()));
    kubeconfig(&space, &role, &file).await;
    let mut command = Command::new("go");
    command.args(["run", ".", &space.name, "orders"]).current_dir(MODULE).env("KUBECONFIG", &file);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let _ = std::fs::remove_file(&file);
    let output = output.expect("go is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let Address { url, ca_certs, audience, .. } = topic.status.unwrap().address.unwrap();
    assert_eq!(found, json!({"url": url, "CACerts": ca_certs, "audience": audience}));
}
