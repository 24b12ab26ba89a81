//! TLS connections that trust what a file says at the time.

use std::path::Path;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections to HTTPS addresses, and to no others.
#[derive(Clone, Debug)]
pub struct Connector {
    authority: Arc<Path>,
    http: HttpConnector,
}

impl Connector {
    /// Trusts the certificate authorities in this file.
    pub fn new(authority: &Path) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_LIMIT));
        Self { authority: authority.into(), http }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { authority, http } = self.clone();
        async move {
            let pem = tokio::fs::read(&authority).await.map_err(|error| format!("{}: {error}", authority.display()))?;
            let config = trusting(&pem).map_err(|error| format!("{}: {error}", authority.display()))?;
            let mut https = HttpsConnector::from((http, config));
            https.enforce_https();
            https.call(uri).await
        }
        .boxed()
    }
}

fn trusting(pem: &[u8]) -> Result<ClientConfig, BoxError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err("no certificate in it".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
