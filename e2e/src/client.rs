//! An HTTP client for pods of the tests.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Speaks HTTP, and HTTPS to servers of one certificate authority.
#[derive(Clone)]
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    /// `ca`: a PEM file; without one, HTTPS trusts no server.
    pub fn new(ca: Option<&str>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca {
            for authority in CertificateDer::pem_file_iter(path).with_context(|| path.to_owned())? {
                roots.add(authority?)?;
            }
        }
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    /// Sends; the answer's body is read up to 1 MiB.
    pub async fn send(&self, request: Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
        let sent = async {
            let (parts, body) = self.0.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, 1 << 20).collect().await.map_err(|error| anyhow::anyhow!(error))?;
            anyhow::Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(Duration::from_secs(10), sent).await.context("no answer within 10 s")?
    }

    /// Posts text until it was taken, for at most a minute.
    pub async fn post(&self, url: &str, text: String) -> anyhow::Result<()> {
        for _ in 0..60 {
            match self.send(Request::post(url).body(Bytes::from(text.clone()))?).await {
                Ok(answer) if answer.status() == StatusCode::OK => return Ok(()),
                _ => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        anyhow::bail!("{url} did not take it")
    }
}
