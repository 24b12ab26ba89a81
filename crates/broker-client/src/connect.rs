//! A connection to a topic's broker: mutual TLS and a user JWT, both read again at every (re)connect.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tidegate_wire::nats;

use crate::identity::{Identity, Source, Unreadable};

/// How often the server is asked whether it is there. One that does not answer the third time is left: a server that
/// is frozen, or a network that lost it, is noticed after at most twelve seconds.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// The largest message that is taken from a broker: the largest event there can be (8 MiB), in the form in which the
/// broker's API answers (base64).
pub const MAX_MESSAGE: usize = 16 << 20;
/// Bytes of messages that may wait in a subscription. What is beyond is dropped, whatever the broker sends.
pub const MAX_WAITING: usize = 32 << 20;

/// Options for a connection with this identity. The caller adds what is its own (event callback, capacities).
///
/// Servers are exactly those named: what the broker advertises (pod addresses) is not in its certificate.
///
/// # Errors
/// The identity cannot be read or parsed.
pub fn options(name: &str, servers: &[String], identity: Source) -> Result<nats::Options, Unreadable> {
    tls(Arc::clone(&identity))?;
    let options = nats::Options::new(name, servers, Arc::new(Current(identity)));
    let queue = nats::QueueLimits { bytes: MAX_WAITING, ..options.queue };
    Ok(nats::Options { max_message: MAX_MESSAGE, ping_interval: PING_INTERVAL, queue, ..options })
}

/// Reads everything at each connect: the authorities, the certificate, the user.
struct Current(Source);

impl nats::Identity for Current {
    fn tls(&self) -> Result<Arc<ClientConfig>, nats::IdentityError> {
        Ok(Arc::new(tls(Arc::clone(&self.0))?))
    }

    fn credentials(&self, nonce: &[u8]) -> Result<nats::Credentials, nats::IdentityError> {
        let identity = (self.0)()?;
        let signature = signature(&identity, nonce)?;
        Ok(nats::Credentials { user_jwt: identity.user_jwt, signature })
    }
}

pub(crate) fn signature(identity: &Identity, nonce: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let key = nkeys::KeyPair::from_seed(&identity.user_seed).map_err(|error| Unreadable::new("user seed", error))?;
    key.sign(nonce).map_err(|error| Unreadable::new("user seed", error))
}

pub(crate) fn tls(source: Source) -> Result<ClientConfig, Unreadable> {
    let identity = source()?;
    certified_key(&identity)?;
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(identity.ca.as_bytes()) {
        let authority = authority.map_err(|error| Unreadable::new("certificate authority", error))?;
        roots.add(authority).map_err(|error| Unreadable::new("certificate authority", error))?;
    }
    if roots.is_empty() {
        return Err(Unreadable::new("certificate authority", "no certificate in it"));
    }
    Ok(ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(CurrentCertificate(source))))
}

fn certified_key(identity: &Identity) -> Result<CertifiedKey, Unreadable> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Unreadable::new("certificate", error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|error| Unreadable::new("key", error))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| Unreadable::new("key", error))?;
    Ok(CertifiedKey::new(chain, key))
}

/// Reads the certificate at each handshake: they are rare, and a rotated Secret is then simply used.
struct CurrentCertificate(Source);

impl std::fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

impl ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match (self.0)().and_then(|identity| certified_key(&identity)) {
            Ok(key) => Some(Arc::new(key)),
            Err(error) => {
                tracing::error!(%error, "no client certificate for this handshake");
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}
