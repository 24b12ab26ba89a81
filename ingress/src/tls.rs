//! The server's certificate: read from the identity folder, and read again while the program runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tidegate_broker_client::identity::{Unreadable, file};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The certificate in use. Handshakes read it, [`Certificate::watch`] replaces it.
pub struct Certificate {
    folder: PathBuf,
    current: RwLock<Loaded>,
}

/// A certificate with the bytes it was made from, by which a change is seen.
#[derive(Clone)]
struct Loaded {
    files: (Vec<u8>, Vec<u8>),
    key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads the certificate and key of an identity folder.
    ///
    /// # Errors
    /// A file cannot be read, is not PEM, or the key is not that of the certificate.
    pub fn load(folder: impl Into<PathBuf>) -> Result<Arc<Self>, Unreadable> {
        let folder = folder.into();
        let files = read(&folder)?;
        let key = Arc::new(parse(&files)?);
        Ok(Arc::new(Self { folder, current: RwLock::new(Loaded { files, key }) }))
    }

    /// An acceptor that uses the certificate of the moment, for these application protocols (ALPN), the best first.
    ///
    /// # Errors
    /// The crypto provider has no protocol version in common with rustls (it has).
    pub fn acceptor(self: &Arc<Self>, protocols: &[&str]) -> Result<TlsAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again and again, and takes over what has changed. A bad pair keeps the old one.
    pub async fn watch(&self, interval: Duration) {
        let mut refused = None;
        loop {
            tokio::time::sleep(interval).await;
            match self.reload() {
                Ok(true) => tracing::info!("server certificate renewed"),
                Ok(false) => refused = None,
                Err(error) => {
                    let error = error.to_string();
                    if refused.as_ref() != Some(&error) {
                        tracing::warn!(%error, "cannot use the new server certificate: keeping the old one");
                        refused = Some(error);
                    }
                }
            }
        }
    }

    /// Whether a changed pair was taken over.
    fn reload(&self) -> Result<bool, Unreadable> {
        let files = read(&self.folder)?;
        if self.loaded().files == files {
            return Ok(false);
        }
        let key = Arc::new(parse(&files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Loaded { files, key };
        Ok(true)
    }

    fn loaded(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The handshake of a connection; `None` if it failed or took longer than `limit`.
pub async fn handshake(tls: &TlsAcceptor, stream: TcpStream, limit: Duration) -> Option<TlsStream<TcpStream>> {
    match timeout(limit, tls.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
    None
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.folder.display())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

fn read(folder: &std::path::Path) -> Result<(Vec<u8>, Vec<u8>), Unreadable> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| Unreadable::new(path.display().to_string(), error))
    };
    Ok((read(file::CERTIFICATE)?, read(file::KEY)?))
}

fn parse((certificate, key): &(Vec<u8>, Vec<u8>)) -> Result<CertifiedKey, Unreadable> {
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Unreadable::new(file::CERTIFICATE, error))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Unreadable::new(file::KEY, error))?;
    // This also refuses a key that is not the certificate's, as seen while a mounted Secret changes.
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| Unreadable::new(format!("{} and {}", file::CERTIFICATE, file::KEY), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join(file::CERTIFICATE), pair.cert.pem()).unwrap();
        std::fs::write(folder.join(file::KEY), pair.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_changed_pair_is_taken_over_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let certificate = Certificate::load(folder.path()).unwrap();
        let first = certificate.loaded().key;
        assert!(!certificate.reload().unwrap(), "nothing has changed");

        std::fs::write(folder.path().join(file::CERTIFICATE), "no certificate").unwrap();
        assert!(certificate.reload().is_err());
        assert_eq!(certificate.loaded().key.cert, first.cert);

        write(folder.path());
        assert!(certificate.reload().unwrap());
        assert_ne!(certificate.loaded().key.cert, first.cert);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let certificate = std::fs::read(folder.path().join(file::CERTIFICATE)).unwrap();
        write(folder.path());
        std::fs::write(folder.path().join(file::CERTIFICATE), certificate).unwrap();
        assert!(Certificate::load(folder.path()).is_err());
    }
}
