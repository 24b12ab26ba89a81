//! A client without a library, because it does what none would, and hears at once what the server thinks of it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tidegate_broker_client::identity::file;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a server answers to a request that has no receiver.
const NO_RESPONDERS: &str = "NATS/1.0 503\r\n";

/// What a client shows of itself.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The folder of certificate and key; `None`: it has none.
    pub certificate: Option<&'a Path>,
    /// The folder of user JWT and seed; `None`: it names no user.
    pub user: Option<&'a Path>,
}

/// A connection that was let in.
pub struct Raw {
    stream: BufReader<TlsStream<TcpStream>>,
    /// Messages that have come.
    heard: usize,
}

impl Raw {
    /// Connects to this port and waits until the server has said yes (else an error). `ca` is a folder with the
    /// broker's authority.
    pub async fn connect(address: &str, ca: &Path, shown: Shown<'_>) -> io::Result<Self> {
        let says = serde_json::json!({"verbose": false, "pedantic": false, "lang": "test", "version": "0", "no_responders": true});
        Self::open(&address.replace("tls://localhost", "127.0.0.1"), ca, shown, says).await
    }

    /// The same as a server that poses as a leafnode of this one (`host:port`).
    pub async fn leafnode(address: &str, ca: &Path, shown: Shown<'_>) -> io::Result<Self> {
        let says = serde_json::json!({"name": "leaf", "server_id": "leaf", "version": "2.15.2"});
        Self::open(address, ca, shown, says).await
    }

    async fn open(address: &str, ca: &Path, shown: Shown<'_>, mut connect: serde_json::Value) -> io::Result<Self> {
        let mut plain = BufReader::new(TcpStream::connect(address).await?);
        let mut info = String::new();
        plain.read_line(&mut info).await?;
        let info: serde_json::Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
        let connector = TlsConnector::from(Arc::new(tls(ca, shown.certificate)));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), plain.into_inner()).await?;
        let mut raw = Self { stream: BufReader::new(stream), heard: 0 };
        connect["headers"] = true.into();
        connect["protocol"] = 1.into();
        if let Some(user) = shown.user {
            let read = |name: &str| std::fs::read_to_string(user.join(name)).unwrap().trim().to_owned();
            let key = nkeys::KeyPair::from_seed(&read(file::USER_SEED)).unwrap();
            let signature = key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap();
            connect["jwt"] = read(file::USER_JWT).into();
            connect["sig"] = URL_SAFE_NO_PAD.encode(signature).into();
        }
        let errors = raw.exchange(&format!("CONNECT {connect}\r\n")).await?;
        if errors.is_empty() { Ok(raw) } else { Err(io::Error::other(errors.concat())) }
    }

    /// Sends this and a PING, and returns the refusals that come before the PONG: errors, and the answer that nothing
    /// listens there.
    async fn exchange(&mut self, sent: &str) -> io::Result<Vec<String>> {
        self.stream.write_all(format!("{sent}PING\r\n").as_bytes()).await?;
        let mut refusals = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            match line.as_str() {
                "PONG\r\n" => return Ok(refusals),
                refusal if refusal.starts_with("-ERR") || refusal == NO_RESPONDERS => refusals.push(line),
                message if message.starts_with("MSG ") => self.heard += 1,
                _ => {}
            }
        }
    }

    /// Whether any message came: what the server had for this client before is there before its answer to this.
    pub async fn hears(&mut self) -> bool {
        self.exchange("").await.unwrap();
        self.heard > 0
    }

    /// Publishes, whatever comes of it.
    pub async fn publish(&mut self, subject: &str, reply: &str, payload: &str) {
        let message = format!("PUB {subject} {reply} {}\r\n{payload}\r\n", payload.len());
        self.exchange(&message).await.unwrap();
    }

    /// Whether a request that asks for nothing reaches somebody.
    pub async fn reaches(&mut self, subject: &str) -> bool {
        self.is_allowed(&format!("SUB _INBOX.raw 1\r\nPUB {subject} _INBOX.raw 0\r\n\r\n")).await
    }

    /// Whether the server lets it subscribe there.
    pub async fn subscribes(&mut self, subject: &str) -> bool {
        self.is_allowed(&format!("SUB {subject} 2\r\n")).await
    }

    async fn is_allowed(&mut self, sent: &str) -> bool {
        let refusals = self.exchange(sent).await.unwrap();
        let known = |refusal: &String| refusal.contains("Permissions Violation") || refusal == NO_RESPONDERS;
        assert!(refusals.iter().all(known), "{refusals:?}");
        refusals.is_empty()
    }
}

fn tls(ca: &Path, certificate: Option<&Path>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca.join(file::CA)).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let Some(folder) = certificate else { return config.with_no_client_auth() };
    let chain = CertificateDer::pem_file_iter(folder.join(file::CERTIFICATE)).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(file::KEY)).unwrap();
    config.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
}
