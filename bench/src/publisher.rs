//! A publisher that has done its work before it is measured: the bytes of all requests are made in advance, and of the
//! answers no more is read than whether they are successes. So what is measured is the ingress.

pub(crate) mod http1;
mod http2;
pub(crate) mod mqtt;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::meter::Meter;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One event a request, one request at a time.
    Http1,
    /// So many events a request.
    Http1Batch(u64),
    /// One event a request, so many requests at a time on a connection.
    Http2(usize),
    /// MQTT 5 with QoS 1, one event at a time.
    Mqtt,
}

/// What is published.
pub struct Publishing {
    /// How.
    pub protocol: Protocol,
    /// To which port of this machine.
    pub port: u16,
    /// The file with the certificate authority.
    pub ca: PathBuf,
    /// Over so many connections.
    pub connections: usize,
    /// The numbers of the events.
    pub numbers: Range<u64>,
    /// What proves who publishes, one after the other (over HTTP/1.1 without batches); none: nothing.
    pub tokens: Vec<String>,
}

/// What the bytes that came mean.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    /// Requests that succeeded.
    answered: usize,
    /// What the protocol wants to be said.
    reply: Vec<u8>,
}

impl Protocol {
    /// Bytes at the beginning of a connection.
    fn opening(self) -> Vec<u8> {
        match self {
            Self::Http1 | Self::Http1Batch(_) => Vec::new(),
            Self::Http2(_) => http2::opening(),
            Self::Mqtt => mqtt::connect(),
        }
    }

    fn alpn(self) -> Option<&'static [u8]> {
        match self {
            Self::Http1 | Self::Http1Batch(_) => Some(b"http/1.1"),
            Self::Http2(_) => Some(b"h2"),
            Self::Mqtt => None,
        }
    }

    fn window(self) -> usize {
        if let Self::Http2(window) = self { window } else { 1 }
    }

    fn events(self) -> u64 {
        if let Self::Http1Batch(events) = self { events } else { 1 }
    }

    fn request(self, numbers: Range<u64>, token: Option<&str>) -> anyhow::Result<Bytes> {
        match self {
            Self::Http1 => http1::binary("/", numbers.start, token),
            Self::Http1Batch(_) => http1::batch(numbers),
            Self::Http2(_) => http2::binary(numbers.start),
            Self::Mqtt => mqtt::publish(numbers.start),
        }
    }

    /// Reads what is complete, and leaves the rest.
    fn scan(self, input: &mut BytesMut) -> anyhow::Result<Scan> {
        match self {
            Self::Http1 | Self::Http1Batch(_) => http1::scan(input),
            Self::Http2(_) => http2::scan(input),
            Self::Mqtt => mqtt::scan(input),
        }
    }

    /// Appends a request, the so-manieth of its connection.
    fn append(self, output: &mut Vec<u8>, request: &[u8], index: u32) {
        match self {
            Self::Http2(_) => http2::append(output, request, index),
            _ => output.extend_from_slice(request),
        }
    }
}

/// A connection over TLS.
pub type Connection = TlsStream<TcpStream>;
type Queue = RefCell<std::vec::IntoIter<Bytes>>;

/// Publishes all events on the thread that calls it. All connections are there before the first event.
///
/// # Errors
/// The ingress refuses one, or a connection ends.
pub async fn publish(publishing: Publishing, meter: Arc<Meter>) -> anyhow::Result<()> {
    let Publishing { protocol, port, ca, connections, numbers, tokens } = publishing;
    let step = usize::try_from(protocol.events())?;
    ensure!(!numbers.is_empty() && (numbers.end - numbers.start).is_multiple_of(protocol.events()), "no whole batches");
    let starts = numbers.step_by(step);
    let token = |index: usize| tokens.get(index % tokens.len().max(1)).map(String::as_str);
    let requests =
        starts.zip(0..).map(|(start, index)| protocol.request(start..start + protocol.events(), token(index)));
    let queue = RefCell::new(requests.collect::<anyhow::Result<Vec<_>>>()?.into_iter());
    let connector = connector(protocol, &ca)?;
    let open = (0..connections).map(|_| connect(&connector, port));
    let connections = try_join_all(open).await?;
    let drive = connections.into_iter().map(|connection| drive(protocol, connection, &queue, &meter));
    try_join_all(drive).await?;
    Ok(())
}

async fn drive(protocol: Protocol, mut connection: Connection, queue: &Queue, meter: &Meter) -> anyhow::Result<()> {
    let (mut input, mut output) = (BytesMut::with_capacity(16 << 10), protocol.opening());
    let (mut in_flight, mut sent) = (0, 0);
    loop {
        while in_flight < protocol.window() {
            let Some(request) = queue.borrow_mut().next() else { break };
            protocol.append(&mut output, &request, sent);
            (in_flight, sent) = (in_flight + 1, sent + 1);
        }
        if in_flight == 0 {
            return Ok(());
        }
        if !output.is_empty() {
            connection.write_all(&output).await?;
            connection.flush().await?;
            output.clear();
        }
        ensure!(connection.read_buf(&mut input).await? > 0, "the ingress closed a connection");
        let scan = protocol.scan(&mut input)?;
        ensure!(scan.answered <= in_flight, "more answers than requests");
        in_flight -= scan.answered;
        output.extend(scan.reply);
        for _ in 0..u64::try_from(scan.answered)? * protocol.events() {
            meter.step();
        }
    }
}

async fn connect(connector: &TlsConnector, port: u16) -> anyhow::Result<Connection> {
    connect_from(Ipv4Addr::LOCALHOST, connector, port).await
}

/// A connection from this address of the loopback.
///
/// # Errors
/// There is none.
pub async fn connect_from(from: Ipv4Addr, connector: &TlsConnector, port: u16) -> anyhow::Result<Connection> {
    let stream = tcp_from(from, port).await?;
    Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
}

/// The same without TLS.
///
/// # Errors
/// There is none.
pub async fn tcp_from(from: Ipv4Addr, port: u16) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What trusts this authority.
///
/// # Errors
/// It cannot be read.
pub fn connector(protocol: Protocol, ca: &PathBuf) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocol.alpn().iter().map(|name| name.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}
