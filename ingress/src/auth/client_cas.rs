//! The certificate authorities of clients: TLS asks those of the moment.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

/// The authorities whose certificates clients may show. They need not show any.
#[derive(Default)]
pub struct ClientCas(ArcSwap<Current>);

/// Those of the moment.
#[derive(Default)]
struct Current {
    /// Counts the changes.
    generation: u64,
    pem: Option<String>,
    /// `None`: there are none, and clients are not asked.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// Why a text is no list of authorities.
#[derive(Debug, thiserror::Error)]
pub enum ClientCasError {
    /// It is not PEM.
    #[error("the certificate authorities of clients are not PEM: {0}")]
    Pem(#[from] pem::Error),
    /// One of them is no certificate.
    #[error("a certificate authority of clients is not a certificate: {0}")]
    Certificate(#[from] Error),
    /// There is none.
    #[error("the certificate authorities of clients: {0}")]
    Empty(#[from] VerifierBuilderError),
}

impl ClientCas {
    /// From now on these count; `None`: none does.
    ///
    /// # Errors
    /// The text is no list of certificates. Nothing has changed then.
    pub fn replace(&self, pem: Option<&str>) -> Result<(), ClientCasError> {
        let current = self.0.load();
        if current.pem.as_deref() == pem {
            return Ok(());
        }
        let verifier = pem.map(verifier).transpose()?;
        let generation = current.generation + 1;
        self.0.store(Arc::new(Current { generation, pem: pem.map(str::to_owned), verifier }));
        Ok(())
    }

    /// Counts the changes.
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }

    /// Verifies a chain, the leaf first.
    ///
    /// # Errors
    /// It is not, or no longer, of one of the authorities.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_client_cert(leaf, intermediates, UnixTime::now()).map(drop)
    }
}

fn verifier(pem: &str) -> Result<Arc<dyn ClientCertVerifier>, ClientCasError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(ring::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

impl fmt::Debug for ClientCas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCas(generation {})", self.generation())
    }
}

impl ClientCertVerifier for ClientCas {
    fn offer_client_auth(&self) -> bool {
        self.0.load().verifier.is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: they change, and clients have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.0.load().verifier {
            Some(verifier) => verifier.verify_client_cert(leaf, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_readable_changes_nothing() {
        let authority = || rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
        let (cas, good) = (ClientCas::default(), authority());
        assert!(!cas.offer_client_auth());
        cas.replace(Some(&good)).unwrap();
        assert!(cas.offer_client_auth());
        let generation = cas.generation();
        for bad in ["", "no certificate", &good[..good.len() / 2], &good.replace('A', "!")] {
            assert!(cas.replace(Some(bad)).is_err(), "{bad}");
            assert_eq!((cas.generation(), cas.offer_client_auth()), (generation, true));
        }
        cas.replace(Some(&good)).unwrap();
        assert_eq!(cas.generation(), generation, "the same again is no change");
        cas.replace(Some(&format!("{good}{}", authority()))).unwrap();
        cas.replace(None).unwrap();
        assert_eq!((cas.generation(), cas.offer_client_auth()), (generation + 2, false));
    }
}
