//! The certificate authorities of a broker, and the leaves that they make.
//!
//! There are three, so that a leaf is good for one thing. That of servers signs what brokers and ingresses show to those
//! who connect; that of clients, what handlers, ingresses, publishers over NATS and the operator show to a broker; that of
//! routes, what brokers show to each other, and whoever has a leaf of it is one of them.

use std::collections::BTreeSet;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate};

use crate::authority::AuthorityError;

/// A certificate authority outlives every leaf by far; another one takes its place in a [`crate::rollover`].
const CA_LIFETIME: Duration = Duration::days(3650);
/// Certificates and user JWTs.
pub const LEAF_LIFETIME: Duration = Duration::days(90);
/// A leaf is renewed when less than this is left of it: a third of its life, so that an operator that
/// is away for a month breaks nothing.
pub const RENEW_BEFORE: Duration = Duration::days(30);
/// Clocks of nodes differ.
const BACKDATE: Duration = Duration::minutes(5);

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

/// The authorities of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuers {
    /// Signs the leaves of servers.
    pub servers: CertificateAuthority,
    /// Signs those of clients. A broker of an earlier version has one authority for both.
    pub clients: CertificateAuthority,
    /// Signs those of brokers, for their routes.
    pub routes: CertificateAuthority,
}

/// What is trusted of each: one or more certificates, PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchors {
    /// By whoever connects.
    pub servers: String,
    /// By servers.
    pub clients: String,
    /// By brokers on their routes.
    pub routes: String,
}

/// What a leaf is good for. It also says which authority signs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be connected to.
    Server,
    /// To connect.
    Client,
    /// Both, among brokers.
    Peer,
    /// Both, to others than brokers: of an ingress whose broker has one authority for servers and clients, as in an earlier
    /// version, of which the ingress may be too.
    ServerAndClient,
}

impl Usage {
    /// Whether it is good for a server, and for a client.
    fn sides(self) -> (bool, bool) {
        match self {
            Self::Server => (true, false),
            Self::Client => (false, true),
            Self::Peer | Self::ServerAndClient => (true, true),
        }
    }
}

/// The leaf that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// Of a client a URI, its only name. Else the common name, cut after 64 characters.
    pub name: String,
    /// DNS names. A client has none.
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

impl LeafRequest {
    /// That of a client. `name`: what it is, such as `handler/shop/billing`.
    pub fn client(name: &str) -> Self {
        Self { name: format!("tidegate:{name}"), hosts: Vec::new(), usage: Usage::Client }
    }
}

impl Issuers {
    /// New ones, valid from `now`, whose certificates carry `name`.
    ///
    /// # Errors
    /// A certificate could not be made.
    pub fn generate(name: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let make = |of: &str| CertificateAuthority::generate(&format!("{name} {of}"), now);
        Ok(Self { servers: make("servers")?, clients: make("clients")?, routes: make("routes")? })
    }

    /// Whether servers and clients have an authority each.
    pub fn are_separate(&self) -> bool {
        self.servers.certificate != self.clients.certificate
    }

    /// The one that signs leaves for this use.
    pub fn of(&self, usage: Usage) -> &CertificateAuthority {
        match usage {
            Usage::Server | Usage::ServerAndClient => &self.servers,
            Usage::Client => &self.clients,
            Usage::Peer => &self.routes,
        }
    }

    /// What is trusted where only these sign.
    pub fn anchors(&self) -> Anchors {
        let Self { servers, clients, routes } = self;
        let certificate = |authority: &CertificateAuthority| authority.certificate.clone();
        Anchors { servers: certificate(servers), clients: certificate(clients), routes: certificate(routes) }
    }

    /// When the first of them ends; `None`: one cannot be read.
    pub fn end(&self) -> Option<OffsetDateTime> {
        let Self { servers, clients, routes } = self;
        let ends = [servers, clients, routes].map(|authority| certificate_end(&authority.certificate));
        ends.into_iter().collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

impl Anchors {
    /// These and those.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self {
            servers: self.servers + &other.servers,
            clients: self.clients + &other.clients,
            routes: self.routes + &other.routes,
        }
    }
}

impl CertificateAuthority {
    fn generate(name: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = parameters(now, CA_LIFETIME);
        params.distinguished_name.push(DnType::CommonName, common_name(name));
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
        let mut params = parameters(now, LEAF_LIFETIME);
        for host in &request.hosts {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(host.as_str())?));
        }
        match request.usage {
            Usage::Client => params.subject_alt_names.push(SanType::URI(Ia5String::try_from(request.name.as_str())?)),
            Usage::Server | Usage::Peer | Usage::ServerAndClient => {
                params.distinguished_name.push(DnType::CommonName, common_name(&request.name));
            }
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (serves, connects) = request.usage.sides();
        let usages = [(connects, ExtendedKeyUsagePurpose::ClientAuth), (serves, ExtendedKeyUsagePurpose::ServerAuth)];
        params.extended_key_usages =
            usages.into_iter().filter_map(|(is_meant, usage)| is_meant.then_some(usage)).collect();
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
    let found: Option<BTreeSet<(bool, &str)>> = names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(host) => Some((true, *host)),
            GeneralName::URI(uri) => Some((false, *uri)),
            _ => None,
        })
        .collect();
    let is_client = request.usage == Usage::Client;
    let uri = is_client.then_some((false, request.name.as_str()));
    let wanted = request.hosts.iter().map(|host| (true, host.as_str())).chain(uri).collect();
    let usage = leaf.extended_key_usage().ok().flatten();
    let sides = usage.map(|usage| (usage.value.server_auth, usage.value.client_auth));
    name == (!is_client).then(|| common_name(&request.name)).as_deref()
        && found == Some(wanted)
        && sides == Some(request.usage.sides())
}

/// RFC 5280 allows 64 characters.
fn common_name(name: &str) -> String {
    name.chars().take(64).collect()
}

fn parameters(now: OffsetDateTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "tidegate.io");
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
    params
}

/// When this certificate (PEM) ends; `None`: it cannot be read.
pub fn certificate_end(pem: &str) -> Option<OffsetDateTime> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    OffsetDateTime::from_unix_timestamp(pem.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

/// Is it time to replace this certificate (PEM)? One that cannot be read is replaced too.
pub fn certificate_needs_renewal(pem: &str, now: OffsetDateTime) -> bool {
    certificate_end(pem).is_none_or(|end| needs_renewal(end, now))
}

/// Is it time to replace what ends then?
pub fn needs_renewal(end: OffsetDateTime, now: OffsetDateTime) -> bool {
    end - now < RENEW_BEFORE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuers() -> Issuers {
        Issuers::generate("test", OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn a_leaf_is_made_again_in_the_last_third_of_its_life_and_if_anything_differs() {
        let (now, issuers) = (OffsetDateTime::now_utc(), issuers());
        let request = LeafRequest { name: "x".into(), hosts: vec!["b".into(), "a".into()], usage: Usage::Client };
        let leaf = issuers.clients.leaf(&request, now).unwrap().certificate;
        let clients = &issuers.clients;
        assert!(clients.has_made(&leaf, &request, now + Duration::days(59)));
        assert!(!clients.has_made(&leaf, &request, now + Duration::days(61)));
        assert!(!clients.has_made("nonsense", &request, now));
        for other in [
            LeafRequest { name: "y".into(), ..request.clone() },
            LeafRequest { hosts: vec!["a".into()], ..request.clone() },
            LeafRequest { hosts: Vec::new(), ..request.clone() },
            LeafRequest { usage: Usage::Server, ..request.clone() },
            LeafRequest { usage: Usage::Peer, ..request.clone() },
        ] {
            assert!(!clients.has_made(&leaf, &other, now), "{other:?}");
        }
        for other in [&issuers.servers, &issuers.routes] {
            let leaf = other.leaf(&request, now).unwrap().certificate;
            assert!(!clients.has_made(&leaf, &request, now), "of another authority");
            assert!(other.has_made(&leaf, &request, now));
        }
        let long = LeafRequest { name: "n".repeat(100), hosts: Vec::new(), usage: Usage::Peer };
        assert!(clients.has_made(&clients.leaf(&long, now).unwrap().certificate, &long, now));
    }

    /// What a verifier might take for a server's name must not be in the certificate of a client.
    #[test]
    fn a_client_is_named_by_a_uri_alone() {
        let (now, issuers) = (OffsetDateTime::now_utc(), issuers());
        let request = LeafRequest::client("handler/shop/billing");
        let leaf = issuers.clients.leaf(&request, now).unwrap().certificate;
        assert!(issuers.clients.has_made(&leaf, &request, now));
        let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        assert_eq!(leaf.subject().iter_common_name().count(), 0);
        let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(names, [GeneralName::URI("tidegate:handler/shop/billing")]);
    }

    #[test]
    fn those_of_an_earlier_version_are_not_separate() {
        let issuers = issuers();
        assert!(issuers.are_separate());
        let earlier = Issuers { servers: issuers.clients.clone(), ..issuers };
        assert!(!earlier.are_separate());
    }
}
