//! A client certificate, after TLS has verified that it is issued by one of the right authorities.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::publisher::Publisher;

/// The longest URI that is an identity.
const MAX_URI: usize = 2048;

/// What of a client certificate matters here.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Whose it is, or why it names nobody.
    pub publisher: Result<Publisher, CertificateError>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It has none of the names that count, or several.
    #[error("the client certificate must have one URI as its subject alternative name, of at most {MAX_URI} bytes")]
    NotOneUri,
    /// It is not readable.
    #[error("the client certificate is not readable")]
    Malformed,
}

impl Certificate {
    /// From the DER of a leaf.
    pub fn read(leaf: &[u8]) -> Self {
        match X509Certificate::from_der(leaf) {
            Ok((_, leaf)) => Self {
                publisher: publisher(&leaf),
                expires: u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0),
            },
            Err(_) => Self { publisher: Err(CertificateError::Malformed), expires: 0 },
        }
    }
}

/// Other names than URIs count for nothing, and of several URIs none does (SPIFFE X.509-SVID, section 2).
fn publisher(leaf: &X509Certificate<'_>) -> Result<Publisher, CertificateError> {
    let names = leaf.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    let names = names.map(|extension| &extension.value.general_names[..]).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) if (1..=MAX_URI).contains(&uri.len()) => Ok(Publisher::certificate(uri)),
        _ => Err(CertificateError::NotOneUri),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn read(names: Vec<SanType>) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "spiffe://a/common-name");
        params.subject_alt_names = names;
        params.not_after = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(leaf.der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn one_uri_names_a_publisher_and_nothing_else_does() {
        let other = || SanType::DnsName("a.example.com".try_into().unwrap());
        let read_one = read(vec![other(), uri("spiffe://a/b")]);
        assert_eq!(read_one.publisher, Ok(Publisher::certificate("spiffe://a/b")));
        assert_eq!(read_one.expires, 1_800_000_000);
        for names in [
            vec![],
            vec![other()],
            vec![uri("spiffe://a/b"), uri("spiffe://a/c")],
            vec![uri(&format!("spiffe://a/{}", "b".repeat(MAX_URI)))],
        ] {
            assert_eq!(read(names).publisher, Err(CertificateError::NotOneUri));
        }
        let nothing = Certificate::read(b"\x30\x03\x02\x01");
        assert_eq!((nothing.publisher, nothing.expires), (Err(CertificateError::Malformed), 0));
    }
}
