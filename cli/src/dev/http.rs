//! Plain HTTP on loopback, for `curl`: each request is passed on to the ingress by HTTPS, with a token where it has none.
//!
//! Whoever can connect to this machine's loopback may publish by it. A page in a browser may not: a request that names
//! another host than this machine, or comes from a page, is refused.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, ORIGIN, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::failure::Failure;

/// Connections at a time.
const CONNECTIONS: usize = 256;

/// The topics by their paths, `/<topic>` and `/<namespace>/<topic>`.
pub type Ways = BTreeMap<String, Way>;

/// The way to a topic.
#[derive(Clone, Debug)]
pub struct Way {
    /// Its address.
    pub url: Uri,
    /// A token for it.
    pub token: Option<String>,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Listens, for as long as the program runs. `ca`: the authority of the ingress, PEM.
///
/// # Errors
/// The port is in use.
pub async fn serve(port: u16, ca: &str, ways: watch::Receiver<Arc<Ways>>) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        Failure::Failed(format!(
            "port {port} of --http: {error}: end what listens there, or choose another by --http=PORT"
        ))
    })?;
    let door = Door { client: client(ca)?, ways };
    tokio::spawn(async move {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let door = door.clone();
            let answer = service_fn(move |request| {
                let door = door.clone();
                async move { Ok::<_, Infallible>(door.answer(request).await) }
            });
            let mut connection = hyper::server::conn::http1::Builder::new();
            connection.timer(TokioTimer::new());
            tokio::spawn(async move {
                // A connection that breaks is its client's affair.
                let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
                drop(permit);
            });
        }
    });
    Ok(())
}

fn client(ca: &str) -> Result<Client<HttpsConnector<HttpConnector>, Incoming>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(Failure::failed)?).map_err(Failure::failed)?;
    }
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[derive(Clone)]
struct Door {
    client: Client<HttpsConnector<HttpConnector>, Incoming>,
    ways: watch::Receiver<Arc<Ways>>,
}

impl Door {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Err((status, why)) = judge(request.headers()) {
            return said(status, why.to_owned());
        }
        let ways = Arc::clone(&self.ways.borrow());
        let Some(way) = ways.get(request.uri().path()) else {
            let there: Vec<&str> = ways.keys().map(String::as_str).collect();
            return said(
                StatusCode::NOT_FOUND,
                format!("there is no such topic; POST events to {}\n", there.join(" or ")),
            );
        };
        match self.client.request(to_ingress(request, way)).await {
            Ok(response) => response.map(|body| body.boxed()),
            Err(error) => said(StatusCode::BAD_GATEWAY, format!("the ingress does not answer: {error}: try again\n")),
        }
    }
}

/// Whether a request comes from a program of this machine, and not from a page that a browser shows.
fn judge(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !matches!(name, "localhost" | "127.0.0.1") {
        return Err((StatusCode::FORBIDDEN, "ask for localhost or 127.0.0.1\n"));
    }
    if headers.contains_key(ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "pages in a browser may not publish here\n"));
    }
    Ok(())
}

/// The request as the ingress gets it. What is of the connection stays behind.
fn to_ingress(request: Request<Incoming>, way: &Way) -> Request<Incoming> {
    let (mut head, body) = request.into_parts();
    for of_connection in [HOST, CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(of_connection);
    }
    let token = way.token.as_ref().and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
    if let Some(mut token) = token.filter(|_| !head.headers.contains_key(AUTHORIZATION)) {
        token.set_sensitive(true);
        head.headers.insert(AUTHORIZATION, token);
    }
    head.uri = way.url.clone();
    Request::from_parts(head, body)
}

fn said(status: StatusCode, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_this_machine_are_answered() {
        let judged = |headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            judge(&headers.collect()).is_ok()
        };
        assert!(judged(&[("host", "localhost:7080")]) && judged(&[("host", "127.0.0.1")]));
        assert!(!judged(&[("host", "example.com:7080")]), "a name that was pointed here");
        assert!(!judged(&[("host", "localhost:7080"), ("origin", "https://example.com")]));
        assert!(!judged(&[]));
    }
}
