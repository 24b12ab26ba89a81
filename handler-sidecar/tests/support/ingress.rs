//! A topic's ingress, as far as a sidecar sees it: HTTPS, and an answer to each publish. It keeps what it answered
//! 202 to, once for each message id, as the real one does.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tidegate_broker_admin::{Authority, LeafRequest, Usage};
use tidegate_broker_client::contract::TopicAddress;
use tidegate_broker_client::message_id::{self, TopicKey};
use tidegate_cloudevents::{Event, http as binding};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// With which it verifies message ids.
const TOPIC_KEY: [u8; 32] = [7; 32];

/// One publish.
#[derive(Clone, Debug)]
pub struct Published {
    pub message_id: String,
    pub event: Event,
    pub headers: HeaderMap,
}

/// What it answers, and after which time; `seen` publishes came before.
type Script = Arc<dyn Fn(&Published, usize) -> (u16, Duration) + Send + Sync>;

#[derive(Clone)]
struct Shared {
    came: Arc<Mutex<Vec<Published>>>,
    stored: Arc<Mutex<Vec<Published>>>,
    answered: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    script: Script,
}

/// A running ingress. Dropped, it is gone with its connections.
pub struct Ingress {
    pub port: u16,
    folder: TempDir,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Ingress {
    /// One that stores everything.
    pub async fn start() -> Self {
        Self::answering(|_, _| (202, Duration::ZERO)).await
    }

    /// One that answers as the function says.
    pub async fn answering(script: impl Fn(&Published, usize) -> (u16, Duration) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared {
            came: Arc::default(),
            stored: Arc::default(),
            answered: Arc::default(),
            connections: Arc::default(),
            script: Arc::new(script),
        };
        let port = super::free_port();
        let task = serve(port, shared.clone(), folder.path()).await;
        Self { port, folder, shared, task }
    }

    /// Ends, and starts with a certificate of another authority, which is in the file from then on.
    pub async fn rotate(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.task = serve(self.port, self.shared.clone(), self.folder.path()).await;
    }

    pub fn topic_address(&self) -> TopicAddress {
        TopicAddress {
            topic: "invoices".into(),
            url: format!("https://localhost:{}", self.port),
            ca: self.ca(),
            message_id_key: self.folder.path().join("message-ids.key"),
        }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Every publish, repeated ones included.
    pub fn came(&self) -> Vec<Published> {
        self.shared.came.lock().unwrap().clone()
    }

    /// How many publishes are over.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// What is in the topic.
    pub fn stored(&self) -> Vec<Published> {
        self.shared.stored.lock().unwrap().clone()
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes an authority, puts it into the folder, and serves with a certificate of it.
async fn serve(port: u16, shared: Shared, folder: &Path) -> JoinHandle<()> {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::generate("invoices", now).unwrap();
    let request = LeafRequest { name: "ingress".into(), hosts: vec!["localhost".into()], usage: Usage::Server };
    let leaf = authority.leaf(&request, now).unwrap();
    std::fs::write(folder.join("ca.crt"), authority.trusted_servers()).unwrap();
    let key = TopicKey::new(&TOPIC_KEY).handler_key_text(&format!("uid-{}", super::HANDLER));
    std::fs::write(folder.join("message-ids.key"), key).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let made = shared.connections.clone();
    let app = Router::new().fallback(publish).with_state(shared);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        // Its end is the end of all of them.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            made.fetch_add(1, Ordering::SeqCst);
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(app.clone()));
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    })
}

async fn publish(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let (_, mut events) = binding::decode(&headers, body).unwrap();
    let token = headers[message_id::HEADER].to_str().unwrap();
    let message_id = TopicKey::new(&TOPIC_KEY).verify(token).expect("a message id of the handler's").message_id();
    let published = Published { message_id, event: events.pop().unwrap(), headers };
    let seen = {
        let mut came = shared.came.lock().unwrap();
        came.push(published.clone());
        came.len() - 1
    };
    let (status, wait) = (shared.script)(&published, seen);
    // Apart, so that it is stored even if no one waits for the answer any more.
    let storing = tokio::spawn(async move {
        sleep(wait).await;
        let mut stored = shared.stored.lock().unwrap();
        if status == 202 && stored.iter().all(|earlier| earlier.message_id != published.message_id) {
            stored.push(published);
        }
        shared.answered.fetch_add(1, Ordering::SeqCst);
    });
    storing.await.unwrap();
    let problem = r#"{"type":"urn:tidegate:problem:test","detail":"because the test says so"}"#;
    (StatusCode::from_u16(status).unwrap(), problem).into_response()
}
