//! A broker's root of trust: one random root key and two certificate authorities.
//!
//! One signs what clients and servers show each other, each leaf for the one use it has. The other is for the routes
//! between brokers alone: whoever has a leaf of it is a broker.
//!
//! Every nkey (operator, accounts, users) is derived from the root key by HKDF-SHA256 (RFC 5869) with a
//! label, so there is one secret to keep, nothing to synchronise, and a handler that is made again under
//! another UID is another account.

use std::collections::BTreeSet;

use nkeys::{KeyPair, KeyPairType};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};
use tidegate_broker_client::TopicId;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate};

/// The certificate authority outlives every leaf by far; its rollover is a procedure of its own.
const CA_LIFETIME: Duration = Duration::days(3650);
/// Certificates and user JWTs.
pub const LEAF_LIFETIME: Duration = Duration::days(90);
/// A leaf is renewed when less than this is left of it: a third of its life, so that an operator that
/// is away for a month breaks nothing.
pub const RENEW_BEFORE: Duration = Duration::days(30);
/// Clocks of nodes differ.
const BACKDATE: Duration = Duration::minutes(5);

/// Why there is no authority or leaf. Trying again helps in neither case.
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
    /// A broker has no more topics than
    /// [`MAX_TOPICS`](tidegate_broker_client::contract::MAX_TOPICS).
    #[error("{0} topics are too many for one broker")]
    TooManyTopics(usize),
    /// The system has no randomness.
    #[error("no randomness")]
    Randomness,
}

/// A broker's root of trust. Its parts are what the operator keeps in a Secret.
#[derive(Clone)]
pub struct Authority {
    /// 32 random bytes.
    pub root: [u8; 32],
    /// Certificate of the authority, PEM.
    pub ca_certificate: String,
    /// Its key, PEM.
    pub ca_key: String,
    /// The authority of the routes.
    pub routes: CertificateAuthority,
}

/// A certificate authority with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateAuthority {
    /// Certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateAuthority(secret)")
    }
}

/// What a leaf is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be connected to.
    Server,
    /// To connect.
    Client,
    /// Both: an ingress serves publishers and is a client of the broker; a broker is both to its peers.
    Both,
}

/// The leaf that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// The common name, cut after 64 characters. That of a client must be no host name.
    pub name: String,
    /// DNS names.
    pub hosts: Vec<String>,
    /// What it is good for.
    pub usage: Usage,
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
        let CertificateAuthority { certificate, key } = CertificateAuthority::generate(name, now)?;
        let routes = CertificateAuthority::generate(&format!("{name} routes"), now)?;
        Ok(Self { root, ca_certificate: certificate, ca_key: key, routes })
    }

    /// The authority of clients and servers.
    pub fn clients(&self) -> CertificateAuthority {
        CertificateAuthority { certificate: self.ca_certificate.clone(), key: self.ca_key.clone() }
    }

    /// A leaf of the authority of clients and servers.
    ///
    /// # Errors
    /// A name is not one, or the authority is damaged.
    pub fn leaf(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        self.clients().leaf(request, now)
    }

    /// A leaf of the routes' authority.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    pub fn route_leaf(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        self.routes.leaf(request, now)
    }

    /// A topic's key for message ids ([`tidegate_broker_client::message_id::TopicKey`]).
    ///
    /// # Errors
    /// As [`Self::derive`].
    pub fn message_id_key(&self, topic: &TopicId) -> Result<[u8; 32], AuthorityError> {
        self.derive(&format!("message-ids/{topic}"))
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

impl CertificateAuthority {
    fn generate(name: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = parameters(name, now, CA_LIFETIME, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A leaf of this authority.
    ///
    /// # Errors
    /// A name is not one, or the authority is damaged.
    pub fn leaf(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, rcgen::KeyPair::from_pem(&self.key)?)?;
        let mut params = parameters(&request.name, now, LEAF_LIFETIME, request.hosts.clone())?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        };
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether this certificate (PEM) is a leaf of this authority as requested, and far from its end.
    pub fn has_made(&self, pem: &str, request: &LeafRequest, now: OffsetDateTime) -> bool {
        if certificate_needs_renewal(pem, now) {
            return false;
        }
        let parse = |text: &str| x509_parser::pem::parse_x509_pem(text.as_bytes()).ok().map(|(_, pem)| pem);
        let (Some(pem), Some(authority)) = (parse(pem), parse(&self.certificate)) else { return false };
        let (Ok(leaf), Ok(authority)) = (pem.parse_x509(), authority.parse_x509()) else { return false };
        is_issued_by(&leaf, &authority) && is_as_requested(&leaf, request)
    }
}

/// By the identifier of the key that signed it. The authority's own Secret says which that is; a signature over it is
/// checked by whoever the leaf is shown to.
fn is_issued_by(leaf: &X509Certificate<'_>, authority: &X509Certificate<'_>) -> bool {
    let issuer = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    });
    let own = authority.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    });
    issuer.is_some() && issuer == own
}

fn is_as_requested(leaf: &X509Certificate<'_>, request: &LeafRequest) -> bool {
    let name = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let names = match leaf.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.as_slice(),
        Ok(None) => &[],
        Err(_) => return false,
    };
    let hosts: Option<BTreeSet<&str>> = names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(host) => Some(*host),
            _ => None,
        })
        .collect();
    let usage = leaf.extended_key_usage().ok().flatten().and_then(|usage| {
        match (usage.value.server_auth, usage.value.client_auth) {
            (true, true) => Some(Usage::Both),
            (true, false) => Some(Usage::Server),
            (false, true) => Some(Usage::Client),
            (false, false) => None,
        }
    });
    name == Some(&*common_name(&request.name))
        && hosts == Some(request.hosts.iter().map(String::as_str).collect())
        && usage == Some(request.usage)
}

/// RFC 5280 allows 64 characters.
fn common_name(name: &str) -> String {
    name.chars().take(64).collect()
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
    params.distinguished_name.push(DnType::CommonName, common_name(name));
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    Ok(params)
}

/// When this certificate (PEM) ends; `None`: it cannot be read.
pub fn certificate_end(pem: &str) -> Option<OffsetDateTime> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    OffsetDateTime::from_unix_timestamp(pem.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

/// Is it time to replace this certificate (PEM)? One that cannot be read is replaced too.
pub fn certificate_needs_renewal(pem: &str, now: OffsetDateTime) -> bool {
    certificate_end(pem).is_none_or(|end| end - now < RENEW_BEFORE)
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
    fn a_leaf_is_made_again_in_the_last_third_of_its_life_and_if_anything_differs() {
        let (now, authority) = (OffsetDateTime::now_utc(), authority());
        let request = LeafRequest { name: "x".into(), hosts: vec!["b".into(), "a".into()], usage: Usage::Client };
        let leaf = authority.leaf(&request, now).unwrap().certificate;
        let clients = authority.clients();
        assert!(clients.has_made(&leaf, &request, now + Duration::days(59)));
        assert!(!clients.has_made(&leaf, &request, now + Duration::days(61)));
        assert!(!clients.has_made("nonsense", &request, now));
        for other in [
            LeafRequest { name: "y".into(), ..request.clone() },
            LeafRequest { hosts: vec!["a".into()], ..request.clone() },
            LeafRequest { hosts: Vec::new(), ..request.clone() },
            LeafRequest { usage: Usage::Server, ..request.clone() },
            LeafRequest { usage: Usage::Both, ..request.clone() },
        ] {
            assert!(!clients.has_made(&leaf, &other, now), "{other:?}");
        }
        let of_routes = authority.route_leaf(&request, now).unwrap().certificate;
        assert!(!clients.has_made(&of_routes, &request, now), "of another authority");
        assert!(authority.routes.has_made(&of_routes, &request, now));
        let long = LeafRequest { name: "n".repeat(100), hosts: Vec::new(), usage: Usage::Both };
        assert!(clients.has_made(&authority.leaf(&long, now).unwrap().certificate, &long, now));
    }
}
