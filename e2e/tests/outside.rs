//! Clients outside of the cluster publish through NodePorts, over HTTPS and over MQTT.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

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
use mqtt_protocol_core::mqtt::packet::{Qos, v3_1_1};
use mqtt_protocol_core::mqtt::result_code::MqttError;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tidegate_crds::{EventBroker, EventTopic};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{World, world};

/// A name that only this access has.
const HOST: &str = "events.example.com";
const EVENTS: u64 = 20;
/// For one packet.
const ANSWER: Duration = Duration::from_secs(20);

type Device = TlsStream<TcpStream>;

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
async fn clients_outside_of_the_cluster_publish_through_node_ports() {
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
        let ports = broker.status.unwrap().access[0].node_ports.unwrap();
        let (Some(forward), Some(mqtt)) = (Forward::to(ports.https.unwrap()), Forward::to(ports.mqtts.unwrap())) else {
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
        let topic = format!("{}/events", world.namespace);
        let device = |password: &str| greet(&authorities, &mqtt.address, &topic, password.to_owned());
        assert_eq!(device("none").await.unwrap().1, 4, "bad user name or password");
        let (mut device, accepted) = device(&token).await.unwrap();
        assert_eq!(accepted, 0);
        let event = json!({"specversion": "1.0", "id": "device-0", "source": "/outside", "type": "test.event"});
        publish(&mut device, event.to_string()).await.unwrap();
        let report = world.until("all of them", 60, async || {
            let report = world.report().await?;
            (report.seen == EVENTS + 1).then_some(report)
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

/// TLS to the ingress, as whoever knows it by the name of this access.
fn tls(authorities: &str) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority?)?;
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// A device that names its topic by its user name, and what its CONNECT was answered (MQTT 3.1.1, section 3.2.2.3).
async fn greet(authorities: &str, address: &str, topic: &str, password: String) -> anyhow::Result<(Device, u8)> {
    let mut config = tls(authorities)?;
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let mut device = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?;
    let connect = v3_1_1::Connect::builder().client_id("device").map_err(mqtt_error)?;
    let connect = connect.user_name(topic).map_err(mqtt_error)?.password(password.into_bytes()).map_err(mqtt_error)?;
    let connect = connect.keep_alive(60).build().map_err(mqtt_error)?;
    device.write_all(&connect.to_continuous_buffer()).await?;
    let mut connack = [0; 4];
    timeout(ANSWER, device.read_exact(&mut connack)).await??;
    anyhow::ensure!(connack[..2] == [0x20, 2], "no CONNACK: {connack:?}");
    Ok((device, connack[3]))
}

/// Publishes an event in structured mode, and waits until it is stored.
async fn publish(device: &mut Device, event: String) -> anyhow::Result<()> {
    let publish = v3_1_1::Publish::builder().topic_name("any").map_err(mqtt_error)?;
    let publish = publish.qos(Qos::AtLeastOnce).packet_id(7).payload(event.into_bytes());
    device.write_all(&publish.build().map_err(mqtt_error)?.to_continuous_buffer()).await?;
    let mut puback = [0; 4];
    timeout(ANSWER, device.read_exact(&mut puback)).await??;
    anyhow::ensure!(puback == [0x40, 2, 0, 7], "no PUBACK: {puback:?}");
    Ok(())
}

fn mqtt_error(error: MqttError) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

/// Publishes an event over a connection of its own.
async fn post(authorities: &str, address: &str, namespace: &str, token: &str, id: &str) -> anyhow::Result<StatusCode> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(authorities)?)
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
