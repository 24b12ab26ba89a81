//! A broker that means harm: it has the topic's certificate and host name, and after an ordinary greeting it sends what
//! no nats-server would. It is the attacker itself, and not a stand-in for a server, but for counting PINGs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tidegate_broker_admin::{Authority, LeafRequest, Usage};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// What it does to each client that has connected.
#[derive(Clone, Debug)]
pub enum Attack {
    /// Sends this, and waits for the client to leave.
    Send(Vec<u8>),
    /// Sends this without an end.
    Flood(Vec<u8>),
    /// Says nothing more.
    Hang,
    /// Answers PINGs, and counts them.
    Pong,
}

/// A hostile broker that listens on loopback.
pub struct HostileBroker {
    /// `tls://localhost:port`
    pub address: String,
    counts: Arc<Counts>,
    task: AbortHandle,
}

#[derive(Default)]
struct Counts {
    clients: AtomicUsize,
    sent: AtomicUsize,
    pings: AtomicUsize,
}

/// No client takes more of a flood than this before the attack is called a success.
pub const ENOUGH: usize = 1 << 28;

impl HostileBroker {
    /// Starts one with a leaf of this authority.
    pub async fn start(authority: &Authority, attack: Attack) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = format!("tls://localhost:{}", listener.local_addr().expect("address").port());
        let (acceptor, counts) = (acceptor(authority), Arc::new(Counts::default()));
        let shared = Arc::clone(&counts);
        let serving = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, attack, counts) = (acceptor.clone(), attack.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // A client that leaves ends it.
                    let _ = harm(stream, acceptor, attack, &counts).await;
                });
            }
        };
        Self { address, counts, task: tokio::spawn(serving).abort_handle() }
    }

    /// How many clients have connected so far.
    pub fn clients(&self) -> usize {
        self.counts.clients.load(Ordering::SeqCst)
    }

    /// How many PINGs came after a greeting.
    pub fn pings(&self) -> usize {
        self.counts.pings.load(Ordering::SeqCst)
    }

    /// Bytes of the attack that were taken from it, those in the kernel's buffers included.
    pub fn sent(&self) -> usize {
        self.counts.sent.load(Ordering::SeqCst)
    }
}

impl Drop for HostileBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn harm(stream: TcpStream, acceptor: TlsAcceptor, attack: Attack, counts: &Counts) -> std::io::Result<()> {
    let mut plain = stream;
    let info = r#"INFO {"server_id":"X","server_name":"x","version":"2.15.2","proto":1,"max_payload":4194304,"headers":true,"tls_required":true,"tls_verify":true,"jetstream":true,"auth_required":true,"nonce":"abcdefghijk","client_id":1,"host":"x","port":4222}"#;
    plain.write_all(format!("{info}\r\n").as_bytes()).await?;
    let mut stream = BufReader::new(acceptor.accept(plain).await?);
    let mut line = String::new();
    while !line.ends_with("PING\r\n") {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(b"PONG\r\n").await?;
    stream.flush().await?;
    counts.clients.fetch_add(1, Ordering::SeqCst);
    match attack {
        Attack::Send(bytes) => send(&mut stream, &bytes, counts).await?,
        Attack::Flood(bytes) => {
            while counts.sent.load(Ordering::SeqCst) < ENOUGH {
                send(&mut stream, &bytes, counts).await?;
            }
        }
        Attack::Hang => {}
        Attack::Pong => loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "PING\r\n" {
                counts.pings.fetch_add(1, Ordering::SeqCst);
                stream.write_all(b"PONG\r\n").await?;
                stream.flush().await?;
            }
        },
    }
    // What the client says is not heard.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    Ok(())
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], counts: &Counts) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    counts.sent.fetch_add(bytes.len(), Ordering::SeqCst);
    Ok(())
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let request = LeafRequest { name: "hostile".into(), hosts: vec!["localhost".into()], usage: Usage::Server };
    let leaf = authority.leaf(&request, OffsetDateTime::now_utc()).expect("leaf");
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(|one| one.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("key");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.trusted_by(Usage::Server).as_bytes()).expect("PEM"))
        .expect("root");
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("verifier");
    let config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key);
    TlsAcceptor::from(Arc::new(config.expect("server configuration")))
}
