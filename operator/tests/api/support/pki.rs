//! The certificates of a test's API server: an authority, the server, its administrator, the token key.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// What clients need, in PEM.
pub struct Pki {
    pub folder: PathBuf,
    pub ca: String,
    pub client_certificate: String,
    pub client_key: String,
    /// Another client, which the audit log knows by its name ([`OPERATOR`]): certificate and key.
    pub operator: (String, String),
    /// Certificates and keys of the front proxy's authority: the front proxy's, and one that is not.
    pub front_proxy: (String, String),
    pub not_front_proxy: (String, String),
}

/// The name of an operator that has a process of its own.
pub const OPERATOR: &str = "tidegate-operator";
/// The name of the API server's front proxy.
pub const FRONT_PROXY: &str = "front-proxy-client";

impl Pki {
    /// Makes all of it and writes what the server reads: ca.crt, server.crt, server.key, front-proxy-ca.crt,
    /// front-proxy.crt, front-proxy.key, and two keys for tokens, tokens and rotated, each .key and .pub.
    pub fn create(folder: &Path) -> Self {
        let write = |file: &str, pem: &str| fs::write(folder.join(file), pem).expect("written");
        let (ca, authority) = authority("test");
        let leaf = |parameters: CertificateParams| signed(&authority, &parameters);
        let (server_certificate, server_key) = leaf(parameters("kube-apiserver", None, &["127.0.0.1"]));
        // This group may do everything, whatever the rules say.
        let (client_certificate, client_key) = leaf(parameters("admin", Some("system:masters"), &[]));
        let operator = leaf(parameters(OPERATOR, Some("system:masters"), &[]));
        let (front_proxy_ca, front_proxies) = self::authority("front-proxy");
        let front_proxy = signed(&front_proxies, &parameters(FRONT_PROXY, None, &[]));
        let not_front_proxy = signed(&front_proxies, &parameters("not-the-front-proxy", None, &[]));
        write("front-proxy-ca.crt", &front_proxy_ca);
        write("front-proxy.crt", &front_proxy.0);
        write("front-proxy.key", &front_proxy.1);
        write("ca.crt", &ca);
        write("server.crt", &server_certificate);
        write("server.key", &server_key);
        for tokens in ["tokens", "rotated"] {
            let key = KeyPair::generate().expect("key");
            write(&format!("{tokens}.key"), &key.serialize_pem());
            write(&format!("{tokens}.pub"), &key.public_key_pem());
        }
        Self { folder: folder.to_owned(), ca, client_certificate, client_key, operator, front_proxy, not_front_proxy }
    }
}

/// An authority: its certificate, and what signs.
fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("key");
    let mut authority = parameters(name, None, &[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).expect("authority").pem();
    (certificate, Issuer::new(authority, key))
}

/// Certificate and key.
fn signed(authority: &Issuer<'static, KeyPair>, parameters: &CertificateParams) -> (String, String) {
    let key = KeyPair::generate().expect("key");
    let certificate = parameters.signed_by(&key, authority).expect("leaf");
    (certificate.pem(), key.serialize_pem())
}

fn parameters(name: &str, organisation: Option<&str>, addresses: &[&str]) -> CertificateParams {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut parameters = CertificateParams::new(addresses).expect("addresses");
    parameters.distinguished_name.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        parameters.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters
}
