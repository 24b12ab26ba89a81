//! Accepted events per second through the ingress, beside a raw JetStream publish of the same events.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tidegate_broker_client::identity::file;
use tidegate_test_broker::free_port;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::broker::Broker;
use crate::pace::Pace;
use crate::{CONCURRENCY, ROUNDS, events, process, report};

/// Events of a round, of each.
const EVENTS: u64 = 10_000;

/// A connection of a publisher.
type Connection = SendRequest<Full<Bytes>>;

pub async fn measure(broker: &Broker) -> anyhow::Result<()> {
    let identity = broker.server.ingress_identity_dir();
    let port = free_port();
    let _process = process::ingress(broker, &identity, port).await?;
    let connector = connector(&identity)?;
    let mut connections = try_join_all((0..CONCURRENCY).map(|_| connect(&connector, port))).await?;
    report::note(&format!("ingress: {EVENTS} events of 256 bytes a round, {CONCURRENCY} connections"));
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let raw = raw(broker).await?;
        let ingress = ingress(&mut connections).await?;
        report::note(&format!("  per second: raw publish {raw:.0}, ingress {ingress:.0}"));
        ratios.push(ingress / raw);
    }
    report::row("ingress-throughput-ratio", &ratios, ">= 0.5")?;
    Ok(())
}

async fn raw(broker: &Broker) -> anyhow::Result<f64> {
    let messages = Queue::of(events::message)?;
    let pace = Pace::of(EVENTS);
    let publisher = |_| async {
        while let Some(events::Message { subject, headers, payload }) = messages.next() {
            broker.stream.publish_with_headers(subject, headers, payload).await?.await?;
            pace.step();
        }
        anyhow::Ok(())
    };
    try_join_all((0..CONCURRENCY).map(publisher)).await?;
    pace.rate()
}

async fn ingress(connections: &mut [Connection]) -> anyhow::Result<f64> {
    let uri = Uri::from_static("/");
    let requests = Queue::of(|number| events::request(number, &uri))?;
    let pace = Pace::of(EVENTS);
    let publisher = async |connection: &mut Connection| {
        while let Some(request) = requests.next() {
            publish(connection, request).await?;
            pace.step();
        }
        anyhow::Ok(())
    };
    try_join_all(connections.iter_mut().map(publisher)).await?;
    pace.rate()
}

async fn publish(connection: &mut Connection, mut request: Request<Full<Bytes>>) -> anyhow::Result<()> {
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    ensure!(response.status() == StatusCode::ACCEPTED, "the ingress says {}", response.status());
    response.into_body().collect().await?;
    Ok(())
}

async fn connect(connector: &TlsConnector, port: u16) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn connector(identity: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(identity.join(file::CA))?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A round's events, made before the clock runs; each publisher takes the next.
struct Queue<T>(Mutex<std::vec::IntoIter<T>>);

impl<T> Queue<T> {
    fn of(make: impl FnMut(u64) -> anyhow::Result<T>) -> anyhow::Result<Self> {
        let all = events::numbers(EVENTS).map(make).collect::<anyhow::Result<Vec<T>>>()?;
        Ok(Self(Mutex::new(all.into_iter())))
    }

    fn next(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}
