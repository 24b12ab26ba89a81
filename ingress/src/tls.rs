//! The server's certificates: read from their folders, and read again while the program runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tidegate_broker_client::contract::AccessCertificate;
use tidegate_broker_client::identity::{self, Unreadable, file};
use tidegate_publisher_auth::{check_server_certificate, name_covers_host};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::auth::{self, ClientCas};

/// The certificates in use. Handshakes read them, [`Certificates::watch`] replaces them.
#[derive(Debug)]
pub struct Certificates {
    /// The broker's own, for whoever asks for no name, or for one that no other certificate is for.
    own: Certificate,
    /// Those for clients from outside.
    more: Vec<Certificate>,
}

/// A certificate in use; `None`: there is none yet.
struct Certificate {
    folder: PathBuf,
    /// The hosts that it must be for, in lower case, also `*.example.com`; none: it is the broker's own.
    hosts: Vec<String>,
    current: RwLock<Option<Loaded>>,
}

/// A certificate with the bytes it was made from, by which a change is seen.
#[derive(Clone)]
struct Loaded {
    generation: Option<u64>,
    files: (Vec<u8>, Vec<u8>),
    key: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads the broker's own certificate, and those for other hosts as far as they are there.
    ///
    /// # Errors
    /// A file of its own cannot be read, is not PEM, or the key is not that of the certificate.
    pub fn load(own: impl Into<PathBuf>, more: &[AccessCertificate]) -> Result<Arc<Self>, Unreadable> {
        let own = Certificate::new(own.into(), Vec::new());
        own.reload()?;
        let for_hosts = |access: &AccessCertificate| {
            let hosts = access.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
            let certificate = Certificate::new(access.folder.clone(), hosts);
            if let Err(error) = certificate.reload() {
                tracing::warn!(%error, hosts = ?access.hosts, "cannot use a certificate: these hosts have the broker's own");
            }
            certificate
        };
        Ok(Arc::new(Self { own, more: more.iter().map(for_hosts).collect() }))
    }

    /// An acceptor that uses the certificates of the moment, for these application protocols (ALPN), the best first.
    /// Clients may show a certificate of one of these authorities; one of another ends the handshake.
    ///
    /// # Errors
    /// The crypto provider has no protocol version in common with rustls (it has).
    pub fn acceptor(
        self: &Arc<Self>,
        protocols: &[&str],
        clients: &Arc<ClientCas>,
    ) -> Result<TlsAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::clone(clients) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again and again, and takes over what has changed. A bad pair keeps the old one.
    pub async fn watch(&self, interval: Duration) {
        let all = || std::iter::once(&self.own).chain(&self.more);
        let mut refused = vec![None; self.more.len() + 1];
        loop {
            tokio::time::sleep(interval).await;
            for (certificate, refused) in all().zip(&mut refused) {
                match certificate.reload() {
                    Ok(true) => tracing::info!(folder = %certificate.folder.display(), "server certificate renewed"),
                    Ok(false) => *refused = None,
                    Err(error) => {
                        let error = error.to_string();
                        if refused.as_ref() != Some(&error) {
                            tracing::warn!(%error, "cannot use the new server certificate: keeping the old one");
                            *refused = Some(error);
                        }
                    }
                }
            }
        }
    }

    /// The [generation](identity::generation) of the broker's own certificate that is in use. What the ingress connects to the
    /// broker with is read from the same folder, and as new.
    pub fn generation(&self) -> Option<u64> {
        self.own.current().as_ref().and_then(|loaded| loaded.generation)
    }

    fn for_host(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let host = host.to_ascii_lowercase();
        let more = self.more.iter().filter(|more| more.hosts.iter().any(|pattern| name_covers_host(pattern, &host)));
        more.filter_map(Certificate::key).next()
    }
}

impl Certificate {
    fn new(folder: PathBuf, hosts: Vec<String>) -> Self {
        Self { folder, hosts, current: RwLock::new(None) }
    }

    /// Whether a changed pair was taken over. One that a user has made must be good now, and for its hosts: the last one
    /// that was is better than one that no client takes.
    fn reload(&self) -> Result<bool, Unreadable> {
        // First, so that the files are of this generation or a later one.
        let generation = identity::generation(&self.folder);
        let files = read(&self.folder)?;
        if let Some(loaded) = self.write().as_mut().filter(|loaded| loaded.files == files) {
            loaded.generation = generation;
            return Ok(false);
        }
        let key = Arc::new(parse(&files)?);
        if let (Some(leaf), false) = (key.cert.first(), self.hosts.is_empty()) {
            let now = i64::try_from(auth::now()).unwrap_or(i64::MAX);
            check_server_certificate(leaf, &self.hosts, now)
                .map_err(|error| Unreadable::new(self.folder.join(file::CERTIFICATE).display().to_string(), error))?;
        }
        *self.write() = Some(Loaded { generation, files, key });
        Ok(true)
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.current().as_ref().map(|loaded| Arc::clone(&loaded.key))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Loaded>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> RwLockReadGuard<'_, Option<Loaded>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
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

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|host| self.for_host(host)).or_else(|| self.own.key())
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
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(folder: &std::path::Path) {
        write_for(folder, &["localhost"], 60);
    }

    /// A certificate for these hosts that ends in so many seconds.
    fn write_for(folder: &std::path::Path, hosts: &[&str], seconds: i64) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let (mut params, key) = (CertificateParams::new(hosts).unwrap(), KeyPair::generate().unwrap());
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
        std::fs::write(folder.join(file::CERTIFICATE), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(folder.join(file::KEY), key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_changed_pair_is_taken_over_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let certificate = &Certificates::load(folder.path(), &[]).unwrap().own;
        let first = certificate.key().unwrap();
        assert!(!certificate.reload().unwrap(), "nothing has changed");

        std::fs::write(folder.path().join(file::CERTIFICATE), "no certificate").unwrap();
        assert!(certificate.reload().is_err());
        assert_eq!(certificate.key().unwrap().cert, first.cert);

        write(folder.path());
        assert!(certificate.reload().unwrap());
        assert_ne!(certificate.key().unwrap().cert, first.cert);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let certificate = std::fs::read(folder.path().join(file::CERTIFICATE)).unwrap();
        write(folder.path());
        std::fs::write(folder.path().join(file::CERTIFICATE), certificate).unwrap();
        assert!(Certificates::load(folder.path(), &[]).is_err());
    }

    #[test]
    fn a_host_has_the_certificate_that_is_for_it_once_that_is_there() {
        let (own, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(own.path());
        let hosts = vec!["Events.example.com".to_owned(), "*.shop.example".to_owned()];
        let access = AccessCertificate { folder: outside.path().to_owned(), hosts };
        let certificates = Certificates::load(own.path(), &[access]).unwrap();
        assert!(certificates.for_host("events.example.com").is_none(), "it is not there yet");
        write_for(outside.path(), &["events.example.com", "*.shop.example"], 60);
        assert!(certificates.more[0].reload().unwrap());
        for (host, is_for_it) in [
            ("events.example.com", true),
            ("EVENTS.example.com", true),
            ("a.shop.example", true),
            ("a.b.shop.example", false),
            ("shop.example", false),
            (".shop.example", false),
            ("example.com", false),
            ("", false),
        ] {
            assert_eq!(certificates.for_host(host).is_some(), is_for_it, "{host}");
        }
    }

    #[test]
    fn a_certificate_that_no_client_takes_does_not_replace_the_last_good_one() {
        let (own, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(own.path());
        let access =
            AccessCertificate { folder: outside.path().to_owned(), hosts: vec!["events.example.com".to_owned()] };
        write_for(outside.path(), &["events.example.com"], -60);
        let certificates = Certificates::load(own.path(), &[access]).unwrap();
        let in_use = || certificates.for_host("events.example.com").map(|key| key.cert.clone());
        assert_eq!(in_use(), None, "it has ended: the broker's own is shown");
        write_for(outside.path(), &["*.example.com"], 60);
        assert!(certificates.more[0].reload().unwrap());
        let good = in_use();
        assert!(good.is_some());
        for (hosts, seconds, reason) in
            [(["events.example.com"], -60, "ended at"), (["other.example.com"], 60, "not for events.example.com")]
        {
            write_for(outside.path(), &hosts, seconds);
            let error = certificates.more[0].reload().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert_eq!(in_use(), good);
        }
    }
}
