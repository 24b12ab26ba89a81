//! The other side of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;
use tidegate_publisher_auth::{Certificate, CertificateError, Publisher};

use super::{ClientCas, Identity};
use crate::problem::Problem;
use crate::share::{Client, Share};
use crate::slots::Seat;

/// The other side of a connection.
pub struct Peer {
    /// Where it is.
    pub client: Client,
    /// What its requests may take.
    pub share: Arc<Share>,
    /// Its certificate, if it showed one.
    pub certificate: Option<PeerCertificate>,
    /// Its place among the connections; `None`: there was none for it.
    pub seat: Option<Arc<Seat>>,
}

impl Peer {
    /// It brought an event: its connection does not make room for others as soon as one that never does.
    pub fn used(&self) {
        if let Some(seat) = &self.seat {
            seat.used();
        }
    }
}

/// The certificate of a connection. TLS verified it once; a connection may last longer than the authority does.
pub struct PeerCertificate {
    chain: Vec<CertificateDer<'static>>,
    publisher: Result<Arc<Publisher>, CertificateError>,
    /// When it ends, in seconds since 1970.
    expires: u64,
    cas: Arc<ClientCas>,
    /// By which state of the authorities it was verified last.
    verified: AtomicU64,
}

/// It was verified by no state.
const NEVER: u64 = u64::MAX;

impl PeerCertificate {
    /// That of a connection after its handshake.
    pub fn of(connection: &ServerConnection, cas: &Arc<ClientCas>) -> Option<Self> {
        let chain = connection.peer_certificates().filter(|chain| !chain.is_empty())?;
        let Certificate { publisher, expires } = Certificate::read(chain.first()?);
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        // That of a resumed session was verified when the session began, so the first request verifies it again.
        let (publisher, cas, verified) = (publisher.map(Arc::new), Arc::clone(cas), AtomicU64::new(NEVER));
        Some(Self { chain, publisher, expires, cas, verified })
    }

    /// Whose it is, if it is still good.
    ///
    /// # Errors
    /// It has ended, its authority no longer counts, or it names nobody.
    pub fn identity(&self, now: u64) -> Result<Identity, Problem> {
        let refused = |reason: String| Problem::unauthenticated(Some(reason));
        let publisher = self.publisher.clone().map_err(|error| refused(error.to_string()))?;
        if self.expires <= now {
            return Err(refused("the client certificate has expired: connect with a new one".to_owned()));
        }
        let generation = self.cas.generation();
        if self.verified.load(Ordering::Relaxed) != generation {
            let verified = self.cas.verify(&self.chain);
            verified.map_err(|_| refused("the client certificate is not of a known authority".to_owned()))?;
            self.verified.store(generation, Ordering::Relaxed);
        }
        Ok(Identity::Certificate(publisher, self.expires))
    }
}
