//! A running ingress, a publisher, and a look into the stream.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, message::StreamMessage};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tidegate_broker_client::contract;
use tidegate_broker_client::{identity, layout, stored};
use tidegate_cloudevents::Event;
use tidegate_ingress::{Ingress, Limits};
use tidegate_test_broker::{LIMIT, TestBroker, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The largest event of the tests' topic.
pub const MAX_EVENT: usize = 64 * 1024;

/// An ingress in this process.
pub struct Running {
    pub https: u16,
    pub mqtt: u16,
    pub admin: u16,
    pub identity: PathBuf,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// A process that does nothing until this is dropped.
pub struct Frozen(u32);

impl Frozen {
    /// Stops all of its threads: they may continue for a moment after the signal.
    pub async fn new(pid: u32) -> Self {
        let frozen = Self(pid);
        frozen.signal("-STOP");
        eventually("all threads are stopped", async || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            // After the name in parentheses comes the state.
            let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            let is_stopped = |thread: PathBuf| {
                std::fs::read_to_string(thread.join("stat")).is_ok_and(|stat| state(stat) == Some('T'))
            };
            threads.map(|thread| thread.unwrap().path()).all(is_stopped)
        })
        .await;
        frozen
    }

    fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args([name, &self.0.to_string()]).status();
        assert!(status.unwrap().success(), "{name}");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The `detail` of the problem.
    pub fn detail(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], self.status.as_u16());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Bounds that suit a test: nothing that should succeed is given up, however busy the machine is. A test of a bound has
/// its own.
pub fn limits() -> Limits {
    Limits {
        handshake: LIMIT,
        publish: Duration::from_secs(20),
        certificate_check: Duration::from_millis(100),
        topics_check: Duration::from_millis(50),
        propagation: Duration::from_millis(500),
        drain: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// Starts an ingress and waits until it is ready.
pub async fn start(broker: &TestBroker) -> Running {
    let running = start_with(broker, limits()).await;
    running.until_ready().await;
    running
}

/// Starts an ingress with these bounds, whether the broker is there or not.
pub async fn start_with(broker: &TestBroker, limits: Limits) -> Running {
    run(&config(broker), limits).await
}

/// What the operator would say, with ports that are free.
pub fn config(broker: &TestBroker) -> contract::Ingress {
    contract::Ingress {
        namespace: "shop".into(),
        broker: "default".into(),
        topics: broker.write_topics(|topic| topic.max_event_size = MAX_EVENT),
        servers: broker.servers(),
        identity: broker.ingress_identity_dir(),
        https_port: 0,
        mqtt_port: 0,
        admin_port: 0,
        broker_monitor: broker.monitor(),
        broker_wake: broker.wake_address(),
        volume: Some(broker.data()),
        capacity: contract::Capacity::default(),
        flush: contract::Flush::PerCommit,
        certificates: Vec::new(),
    }
}

/// Starts an ingress by this configuration.
pub async fn run(config: &contract::Ingress, limits: Limits) -> Running {
    let ingress = Ingress::bind(config, limits).await.unwrap();
    let https = ingress.https_address().unwrap().port();
    let mqtt = ingress.mqtt_address().unwrap().port();
    let admin = ingress.admin_address().unwrap().port();
    let (leave, left) = oneshot::channel();
    let task = tokio::spawn(ingress.run(async { left.await.unwrap_or(()) }));
    Running { https, mqtt, admin, identity: config.identity.clone(), leave: Some(leave), task }
}

impl Running {
    /// One in a process of its own, by its configuration.
    pub fn elsewhere(config: &contract::Ingress) -> Self {
        let contract::Ingress { https_port: https, mqtt_port: mqtt, admin_port: admin, identity, .. } = config.clone();
        Self { https, mqtt, admin, identity, leave: None, task: tokio::spawn(async {}) }
    }

    /// Sends a request to the HTTPS port over a connection of its own.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        exchange(self.connect(b"http/1.1").await, request).await
    }

    /// Sends a body with these headers to `/`.
    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.send(post(headers, body)).await
    }

    /// Sends a whole event in structured mode.
    pub async fn publish(&self, event: &Event) -> Answer {
        let body = tidegate_cloudevents::http::encode_structured(event).unwrap();
        self.post(&[("content-type", "application/cloudevents+json")], body).await
    }

    /// Sends events in batched mode.
    pub async fn publish_batch(&self, events: &[Event]) -> Answer {
        let body = tidegate_cloudevents::http::encode_batch(events).unwrap();
        self.post(&[("content-type", "application/cloudevents-batch+json")], body).await
    }

    /// The status of a page of the admin listener.
    pub async fn probe(&self, page: &str) -> StatusCode {
        admin_status(self.admin, page).await.unwrap()
    }

    /// A TLS connection to the HTTPS port with this application protocol.
    pub async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        self.connect_to(self.https, protocol).await
    }

    /// A TLS connection to a port with this application protocol.
    pub async fn connect_to(&self, port: u16, protocol: &[u8]) -> TlsStream<TcpStream> {
        self.connect_from(1, port, protocol).await
    }

    /// A TLS connection to a port that names this host in its handshake. The certificate is not that host's, and taken.
    pub async fn connect_as(&self, host: &str, port: u16, protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connector = connector(&self.identity, protocol);
        let mut config = ClientConfig::clone(connector.config());
        config.dangerous().set_certificate_verifier(Arc::new(AnyName));
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// The same with this client certificate and its key; `Err`: the server ended the handshake. (In TLS 1.3 it does so
    /// after the client's part is over, so this waits until the server has said something.)
    pub async fn connect_with(
        &self,
        port: u16,
        protocol: &[u8],
        (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.identity.join(identity::file::CA)).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// The same, from 127.0.0.`last`.
    pub async fn connect_from(&self, last: u8, port: u16, protocol: &[u8]) -> TlsStream<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        connector(&self.identity, protocol).connect(name, stream).await.unwrap()
    }

    /// Sends these bytes to the HTTPS port and reads the answer to the end of the connection.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect(b"http/1.1").await;
        // A server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        // A server that closes without TLS's own end is as good.
        let _ = tokio::time::timeout(LIMIT, reading).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Waits for a status of `/readyz`.
    pub async fn until(&self, status: StatusCode) {
        eventually(&format!("/readyz is {status}"), async || self.probe("/readyz").await == status).await;
    }

    /// Waits until the ingress is ready.
    pub async fn until_ready(&self) {
        self.until(StatusCode::OK).await;
    }

    /// Tells the ingress to leave; [`Running::ended`] waits for it.
    pub fn leave(&mut self) {
        self.leave.take().unwrap().send(()).unwrap();
    }

    /// Waits for the end.
    pub async fn ended(self) {
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

/// The status of a page of an admin listener; `None` if no one listens.
pub async fn admin_status(port: u16, page: &str) -> Option<StatusCode> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = Request::get(page).header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    Some(exchange(stream, request).await.status)
}

/// A `POST /` with these headers.
pub fn post(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::post("/").header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

/// One request over one connection of HTTP/1.1.
pub async fn exchange<I, B>(io: I, request: Request<B>) -> Answer
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    answer(sender.send_request(request).await.unwrap()).await
}

/// One request over one connection of HTTP/2.
pub async fn exchange_http2(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Answer {
    answer(http2(stream).await.send_request(request).await.unwrap()).await
}

/// A connection of HTTP/2.
pub async fn http2<B>(stream: TlsStream<TcpStream>) -> http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Reads an answer to its end.
pub async fn answer(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, body }
}

/// Takes the certificate of any server.
#[derive(Debug)]
struct AnyName;

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn connector(identity: &Path, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(identity.join(identity::file::CA)).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// An event of the tests.
pub fn event(id: &str) -> Event {
    Event::builder(id, "/sensors/1", "temperature")
        .data("23.5")
        .attribute("datacontenttype", "text/plain")
        .build()
        .unwrap()
}

/// All messages of the stream, in order.
pub async fn messages(broker: &TestBroker) -> Vec<StreamMessage> {
    let stream = stream(broker).await;
    let state = &stream.cached_info().state;
    let mut messages = Vec::new();
    if state.messages > 0 {
        for sequence in state.first_sequence..=state.last_sequence {
            messages.push(stream.get_raw_message(sequence).await.unwrap());
        }
    }
    messages
}

/// All events of the stream, in order.
pub async fn events(broker: &TestBroker) -> Vec<Event> {
    let messages = messages(broker).await.into_iter();
    messages.map(|message| stored::decode(Some(&message.headers), message.payload).unwrap()).collect()
}

/// The stream, as soon as the broker is back.
async fn stream(broker: &TestBroker) -> jetstream::stream::Stream {
    broker.until_back().await;
    broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap()
}
