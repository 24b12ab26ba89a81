//! A connection to a topic: HTTPS, one event after the other, made again when it breaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tidegate_cloudevents::{Event, json, media_type};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::answer::{Answer, Meaning, meaning};
use super::way::Way;
use crate::failure::Failure;

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 16 << 10;
/// The first pause after a try that may succeed later; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, also where the topic asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A connection, made when it is needed.
pub struct Connection {
    way: Way,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// By this way.
    pub fn new(way: Way) -> Self {
        Self { way, open: None }
    }

    /// Publishes an event, in as many tries as there is time for: it is the same event each time, and stored once.
    ///
    /// # Errors
    /// It is refused, or not known to be stored in time.
    pub async fn publish(&mut self, event: &Event, limit: Duration) -> Result<Answer, Failure> {
        let body = json::encode(event).map_err(Failure::usage)?;
        let end = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (why, asked) = match timeout(left, self.attempt(body.clone())).await {
                Ok(Ok(Meaning::Final(Answer::Refused(why)))) => return Err(Failure::Refused(why)),
                Ok(Ok(Meaning::Final(answer))) => return Ok(answer),
                Ok(Ok(Meaning::Again(why, asked))) => (why, asked),
                Ok(Err(Attempt::Lost(why))) => (why, None),
                Ok(Err(Attempt::Failed(failure))) => return Err(failure),
                Err(_) => ("no answer".to_owned(), None),
            };
            let wait = asked.map_or(pause, Duration::from_secs).min(MAX_PAUSE);
            if Instant::now() + wait >= end {
                let address = &self.way.url;
                return Err(Failure::Failed(format!(
                    "{address} did not take the event within {} s: {why}: try again later, or allow more by --timeout",
                    limit.as_secs()
                )));
            }
            sleep(wait).await;
            pause = pause.saturating_mul(2);
        }
    }

    async fn attempt(&mut self, body: Bytes) -> Result<Meaning, Attempt> {
        let request = self.request(body)?;
        // One that breaks is made again for the next try.
        let mut open = match self.open.take() {
            Some(open) if !open.is_closed() => open,
            _ => self.connect().await?,
        };
        open.ready().await.map_err(Attempt::lost)?;
        let response = open.send_request(request).await.map_err(Attempt::lost)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(Attempt::lost)?.to_bytes();
        self.open = Some(open);
        Ok(meaning(head.status, &head.headers, &body))
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, Attempt> {
        let Way { url, .. } = &self.way;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.path().parse().map_err(Attempt::usage)?;
        let headers = request.headers_mut();
        let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        headers.insert(HOST, HeaderValue::try_from(host).map_err(Attempt::usage)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type::STRUCTURED));
        if let Some(token) = self.way.token().map_err(Attempt::Failed)? {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(Attempt::usage)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Attempt> {
        let host = self.way.url.host().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host).map_err(Attempt::usage)?;
        let connector = TlsConnector::from(Arc::new(tls(&self.way.ca).map_err(Attempt::Failed)?));
        let stream = self.way.connect().await.map_err(Attempt::Lost)?;
        let stream = connector.connect(name, stream).await.map_err(Attempt::lost)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Attempt::lost)?;
        // Its end is seen by whoever sends.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Why there is no answer.
enum Attempt {
    /// The connection: the next one may work.
    Lost(String),
    /// Another try is of no use.
    Failed(Failure),
}

impl Attempt {
    fn lost(error: impl std::fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }

    fn usage(error: impl std::fmt::Display) -> Self {
        Self::Failed(Failure::usage(error))
    }
}

fn tls(ca: &str) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(Failure::usage)?).map_err(Failure::usage)?;
    }
    if roots.is_empty() {
        return Err(Failure::Usage("the certificate authority has no certificate: name a PEM file with --ca".into()));
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
