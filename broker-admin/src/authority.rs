//! A topic's root of trust: one random root key and one certificate authority.
//!
//! Every nkey (operator, accounts, users) is derived from the root key by HKDF-SHA256 (RFC 5869) with a
//! label, so there is one secret to keep, nothing to synchronise, and a handler that is made again under
//! another UID is another account.

use nkeys::{KeyPair, KeyPairType};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};
use time::{Duration, OffsetDateTime};

/// The certificate authority outlives every leaf by far; its rollover is a procedure of its own.
const CA_LIFETIME: Duration = Duration::days(3650);
/// Certificates and user JWTs.
pub const LEAF_LIFETIME: Duration = Duration::days(90);
/// A leaf is renewed when less than this is left of it: a third of its life, so that an operator that
/// is away for a month breaks nothing.
pub const RENEW_BEFORE: Duration = Duration::days(30);
/// Clocks of nodes differ.
const BACKDATE: Duration = Duration::minutes(5);

/// Why there is no authority or leaf. Neither is mended by trying again.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The stored authority is not one.
    #[error("the stored authority is damaged: {0}")]
    Damaged(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key could not be made.
    #[error("key: {0}")]
    Key(#[from] nkeys::error::Error),
    /// The system has no randomness.
    #[error("no randomness")]
    Randomness,
}

/// A topic's root of trust. Its parts are what the operator keeps in a Secret.
#[derive(Clone)]
pub struct Authority {
    /// 32 random bytes.
    pub root: [u8; 32],
    /// Certificate of the authority, PEM.
    pub ca_certificate: String,
    /// Its key, PEM.
    pub ca_key: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    /// Certificate, PEM.
    pub certificate: String,
    /// Key, PEM.
    pub key: String,
}

impl Authority {
    /// A new authority, valid from `now`, whose certificate carries `name`.
    ///
    /// # Errors
    /// No randomness, or the certificate could not be made.
    pub fn generate(name: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let mut root = [0; 32];
        SystemRandom::new().fill(&mut root).map_err(|_| AuthorityError::Randomness)?;
        let key = rcgen::KeyPair::generate()?;
        let mut params = parameters(name, now, CA_LIFETIME, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self { root, ca_certificate: certificate.pem(), ca_key: key.serialize_pem() })
    }

    /// A certificate for these DNS names, good as client and as server (a broker is both to its peers).
    ///
    /// # Errors
    /// A name is not one, or the authority is damaged.
    pub fn leaf(&self, name: &str, dns_names: Vec<String>, now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        let ca_key = rcgen::KeyPair::from_pem(&self.ca_key)?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_certificate, ca_key)?;
        let mut params = parameters(name, now, LEAF_LIFETIME, dns_names)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The topic's key for message ids ([`tidegate_broker_client::message_id::TopicKey`]).
    ///
    /// # Errors
    /// As [`Self::derive`].
    pub fn message_id_key(&self) -> Result<[u8; 32], AuthorityError> {
        self.derive("message-ids")
    }

    /// The key of that kind and label; the same for the same label.
    pub(crate) fn key(&self, kind: KeyPairType, label: &str) -> Result<KeyPair, AuthorityError> {
        Ok(KeyPair::new_from_raw(kind, self.derive(label)?)?)
    }

    /// 32 bytes for a label that is not a key, for example a token that only one pod shall know.
    ///
    /// # Errors
    /// Never in practice: HKDF refuses only lengths beyond its hash.
    pub fn derive(&self, label: &str) -> Result<[u8; 32], AuthorityError> {
        let mut bytes = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate.io/v1")
            .extract(&self.root)
            .expand(&[label.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|material| material.fill(&mut bytes))
            .map_err(|_| AuthorityError::Damaged("key derivation".to_owned()))?;
        Ok(bytes)
    }
}

fn parameters(
    name: &str,
    now: OffsetDateTime,
    lifetime: Duration,
    dns_names: Vec<String>,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(dns_names)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "tidegate.io");
    // RFC 5280 allows 64 characters.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    Ok(params)
}

/// Is it time to replace this certificate (PEM)? One that cannot be read is replaced too.
pub fn certificate_needs_renewal(pem: &str, now: OffsetDateTime) -> bool {
    let not_after = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .ok()
        .and_then(|(_, pem)| pem.parse_x509().ok().map(|certificate| certificate.validity().not_after.timestamp()));
    not_after.is_none_or(|end| end - now.unix_timestamp() < RENEW_BEFORE.whole_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        Authority::generate("test", OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn the_same_label_gives_the_same_key_and_another_label_another() {
        let authority = authority();
        let key = |label| authority.key(KeyPairType::Account, label).unwrap().public_key();
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a"), key("b"));
        assert!(key("a").starts_with('A'));
    }

    #[test]
    fn a_leaf_is_renewed_in_the_last_third_of_its_life() {
        let now = OffsetDateTime::now_utc();
        let leaf = authority().leaf("x", vec!["localhost".into()], now).unwrap();
        assert!(!certificate_needs_renewal(&leaf.certificate, now + Duration::days(59)));
        assert!(certificate_needs_renewal(&leaf.certificate, now + Duration::days(61)));
        assert!(certificate_needs_renewal("nonsense", now));
    }
}
