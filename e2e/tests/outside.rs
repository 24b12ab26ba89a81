//! A client outside of the cluster publishes through a NodePort.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::PostParams;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tidegate_crds::{EventBroker, EventTopic};

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{World, world};

/// A name that only this access has.
const HOST: &str = "events.example.com";
const EVENTS: u64 = 20;

/// Carries connections from a port of the host to one of the node, as long as it lives.
struct Forward {
    process: Child,
    address: String,
}

impl Forward {
    /// To a port of the node's own address. The program is that of our own cluster; of another one nothing is known of how
    /// its nodes are reached.
    fn to(port: i32) -> Option<Self> {
        let program = PathBuf::from(std::env::var_os("TIDEGATE_CLUSTER")?);
        let mut process = Command::new(&program)
            .args(["forward", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { process, address: address.trim().to_owned() })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_client_outside_of_the_cluster_publishes_through_a_node_port() {
    world("outside", async |world| {
        let mut open = broker("default", 1);
        open["spec"]["access"] = json!([{"name": "outside", "type": "NodePort", "hostnames": [HOST]}]);
        world.accept(open).await;
        world.accept(topic("events")).await;
        world.ledger().await;
        world.topic_ready("events").await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        world.condition::<EventBroker>("default", "AccessReady", "True", 30).await;
        let broker = world.api::<EventBroker>().get("default").await.unwrap();
        let port = broker.status.unwrap().access[0].node_ports.as_ref().unwrap().https.unwrap();
        let Some(forward) = Forward::to(port) else {
            println!("e2e: no NodePort was tried: TIDEGATE_CLUSTER does not name our own cluster's program");
            return;
        };
        let (authorities, token) = (world.authorities().await, world.token().await);
        for number in 0..EVENTS {
            let id = format!("outside-{number}");
            // The certificate reaches the ingress a while after the condition says that it was made.
            world
                .until("an event to be taken", 90, async || {
                    let answer = post(&authorities, &forward.address, &world.namespace, &token, &id).await;
                    (answer.ok()? == StatusCode::ACCEPTED).then_some(())
                })
                .await;
        }
        let refused = post(&authorities, &forward.address, &world.namespace, "none", "stranger").await.unwrap();
        assert_eq!(refused, StatusCode::UNAUTHORIZED);
        let report = world.until("all of them", 60, async || {
            let report = world.report().await?;
            (report.seen == EVENTS).then_some(report)
        });
        assert_eq!(report.await.repeated, 0);
    })
    .await;
}

impl World {
    /// What the topic's publishers trust.
    async fn authorities(&self) -> String {
        let found: ConfigMap = self.api().get("events-ca").await.unwrap();
        found.data.unwrap().remove("ca.crt").unwrap()
    }

    /// A token of the namespace's ServiceAccount `default` for the topic.
    async fn token(&self) -> String {
        let topic: EventTopic = self.api().get("events").await.unwrap();
        let audience = topic.status.unwrap().address.unwrap().audience.unwrap();
        let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": [audience]}})).unwrap();
        let api = self.api::<ServiceAccount>();
        let made = api.create_token_request("default", &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token
    }
}

/// Publishes an event over a connection of its own.
async fn post(authorities: &str, address: &str, namespace: &str, token: &str, id: &str) -> anyhow::Result<StatusCode> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority?)?;
    }
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(ServerName::try_from(HOST)?))
        .enable_http1()
        .build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::post(format!("https://{address}/{namespace}/events"))
        .header("ce-specversion", "1.0")
        .header("ce-id", id)
        .header("ce-source", "/outside")
        .header("ce-type", "test.event")
        .header("content-type", "application/json")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(Bytes::from_static(b"{}")))?;
    Ok(client.request(request).await?.status())
}
