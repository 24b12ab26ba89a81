//! The admission webhook, asked by the API server over TLS.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::Status;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};
use tidegate_crds::EventHandler;
use tidegate_operator::https;
use tidegate_test_broker::free_port;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::support::operator::args;
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

const WRONG: &str = "data.amount >";

/// An operator pod's webhook, for one namespace only: the API server is everybody's.
pub struct Webhook {
    pub space: Space,
    port: u16,
    _serving: AbortOnDropHandle<std::io::Result<()>>,
}

impl Webhook {
    pub async fn start(purpose: &str) -> Self {
        let (space, port) = (Space::new(purpose).await, free_port());
        let service = json!({
            "metadata": {"name": space.name},
            // Nothing routes a Service's address here; the name in the certificate is the Service's all the same.
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        });
        let service: Service = serde_json::from_value(service).unwrap();
        space.api::<Service>().create(&PostParams::default(), &service).await.unwrap();
        let webhook = Self { _serving: AbortOnDropHandle::new(serve(&space, port)), port, space };
        webhook.configure().await;
        webhook
    }

    /// As the chart does.
    async fn configure(&self) {
        let name = &self.space.name;
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "eventhandlers.tidegate.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Ignore", "timeoutSeconds": 5,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                "clientConfig": {
                    "service": {"name": name, "namespace": name, "path": "/eventhandlers", "port": self.port},
                },
                "rules": [{
                    "apiGroups": ["tidegate.io"], "apiVersions": ["v1alpha1"], "resources": ["eventhandlers"],
                    "operations": ["CREATE", "UPDATE"],
                }],
            }],
        });
        let params = PatchParams::apply("helm");
        self.configurations().patch(name, &params, &Patch::Apply(configuration)).await.unwrap();
    }

    fn configurations(&self) -> Api<ValidatingWebhookConfiguration> {
        Api::all(self.space.client.clone())
    }

    /// What the API server says to a handler with these fields, without storing it.
    async fn says(&self, changes: Value) -> Result<(), Box<Status>> {
        let handler: EventHandler = serde_json::from_value(handler("judged", spec(changes))).unwrap();
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match self.space.api::<EventHandler>().create(&params, &handler).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("{error}"),
        }
    }

    /// What the API server warns of when it gets a handler with these fields, without storing it.
    async fn warns(&self, name: &str, changes: Value) -> Vec<String> {
        let uri = format!("/apis/tidegate.io/v1alpha1/namespaces/{}/eventhandlers?dryRun=All", self.space.name);
        let body = Body::from(serde_json::to_vec(&handler(name, spec(changes))).unwrap());
        let request = Request::post(uri).header("content-type", "application/json").body(body).unwrap();
        let response = self.space.client.send(request).await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        let warnings = response.headers().get_all("warning");
        warnings.iter().map(|warning| String::from_utf8_lossy(warning.as_bytes()).into_owned()).collect()
    }

    /// The authority by which the API server knows the webhook.
    async fn bundle(&self) -> ByteString {
        let found = self.configurations().get(&self.space.name).await.unwrap();
        found.webhooks.unwrap()[0].client_config.ca_bundle.clone().unwrap_or_default()
    }

    /// Waits for a pod at this port that the API server would believe.
    async fn serves_at(&self, port: u16) {
        let name = format!("{0}.{0}.svc", self.space.name);
        eventually("a handshake", async || {
            let (bundle, name) = (self.bundle().await, name.clone());
            tokio::task::spawn_blocking(move || handshake(port, &bundle.0, name).ok()).await.unwrap()
        })
        .await;
    }

    pub async fn refuses(&self) -> Box<Status> {
        let wrong = json!({"filter": {"expression": WRONG}});
        eventually("the API server asks", async || self.says(wrong.clone()).await.err()).await
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let (configurations, name) = (self.configurations(), self.space.name.clone());
        tokio::spawn(async move { configurations.delete(&name, &DeleteParams::default()).await });
    }
}

/// A TLS handshake as the API server does it, with this authority and name.
fn handshake(port: u16, ca: &[u8], name: String) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(())
}

fn serve(space: &Space, port: u16) -> JoinHandle<std::io::Result<()>> {
    let mut args = args("operator-0", &space.name);
    args.webhook = Some(space.name.clone());
    args.webhook_port = port;
    tokio::spawn(https::run(space.client.clone(), args, Arc::default()))
}

#[tokio::test]
async fn what_can_never_work_is_refused_at_once() {
    let webhook = Webhook::start("judged").await;
    let refused = webhook.refuses().await;
    assert_eq!(refused.code, 422, "{refused:?}");
    assert!(refused.message.contains("denied the request: spec.filter.expression"), "{}", refused.message);
    webhook.says(json!({"filter": {"expression": "data.amount > 1"}})).await.unwrap();
    // Its pods carry the broker's name already, so this one label would make them pods of the broker.
    let mut template = spec(json!({}))["template"].clone();
    template["metadata"] = json!({"labels": {"app.kubernetes.io/component": "broker"}});
    let refused = webhook.says(json!({"template": template})).await.unwrap_err();
    let says = "denied the request: spec.template.metadata.labels[app.kubernetes.io/component]: with the value broker";
    assert!(refused.code == 422 && refused.message.contains(says), "{}", refused.message);
}

#[tokio::test]
async fn a_circle_of_topics_is_warned_of() {
    let webhook = Webhook::start("circle").await;
    webhook.refuses().await;
    let itself = webhook.warns("billing", json!({"reply": {"topic": "orders"}})).await;
    assert!(itself.len() == 1 && itself[0].contains("spec.reply.topic: events come back"), "{itself:?}");
    let invoices = json!({"reply": {"topic": "invoices"}});
    assert_eq!(webhook.warns("billing", invoices.clone()).await, [""; 0]);
    let back = spec(json!({"topic": "invoices", "deadLetter": {"topic": "orders"}}));
    webhook.space.create::<EventHandler>(handler("audit", back)).await;
    let circle = webhook.warns("billing", invoices).await;
    assert!(circle.len() == 1 && circle[0].contains("spec.reply.topic"), "{circle:?}");
}

#[tokio::test]
async fn without_an_answer_the_api_server_goes_on() {
    let webhook = Webhook::start("unjudged").await;
    webhook.refuses().await;
    webhook._serving.abort();
    eventually("no one refuses", async || webhook.says(json!({"filter": {"expression": WRONG}})).await.ok()).await;
}

/// As when two operator pods start at once, and when somebody damages what they share.
#[tokio::test]
async fn pods_share_a_certificate_and_make_it_again() {
    let webhook = Webhook::start("shared").await;
    let space = &webhook.space;
    let second = free_port();
    let _second = AbortOnDropHandle::new(serve(space, second));
    webhook.refuses().await;
    let secrets: Api<Secret> = space.api();
    let authority = async || secrets.get(&space.name).await.unwrap().data.unwrap()["servers-ca.crt"].clone();
    let first = authority().await;
    assert_eq!(webhook.bundle().await, first);
    webhook.serves_at(second).await;
    // The chart's next upgrade leaves what is ours.
    webhook.configure().await;
    assert_eq!(webhook.bundle().await, first);

    let damage = json!({"data": {"servers-ca.key": "LQ==", "tls.crt": "LQ=="}});
    secrets.patch(&space.name, &PatchParams::default(), &Patch::Merge(damage)).await.unwrap();
    let third = free_port();
    let _third = AbortOnDropHandle::new(serve(space, third));
    eventually("another authority", async || (webhook.bundle().await != first).then_some(())).await;
    webhook.serves_at(third).await;
    assert_eq!(webhook.bundle().await, authority().await);
}

/// Each half is good, but they do not belong together: no one can serve with them.
#[tokio::test]
async fn a_pair_that_does_not_belong_together_is_made_again() {
    let webhook = Webhook::start("mismatched").await;
    webhook.refuses().await;
    let secrets: Api<Secret> = webhook.space.api();
    let name = &webhook.space.name;
    let first = secrets.get(name).await.unwrap().data.unwrap();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let damage = json!({"stringData": {"tls.key": key}});
    secrets.patch(name, &PatchParams::default(), &Patch::Merge(damage)).await.unwrap();
    let port = free_port();
    let restarted = AbortOnDropHandle::new(serve(&webhook.space, port));
    webhook.serves_at(port).await;
    assert!(!restarted.is_finished());
    let mended = secrets.get(name).await.unwrap().data.unwrap();
    assert_ne!(mended["tls.crt"], first["tls.crt"]);
    assert_eq!(
        (&mended["servers-ca.crt"], &webhook.bundle().await),
        (&first["servers-ca.crt"], &first["servers-ca.crt"])
    );
}
