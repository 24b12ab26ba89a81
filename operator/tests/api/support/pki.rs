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
}

/// The name of an operator that has a process of its own.
pub const OPERATOR: &str = "tidegate-operator";

impl Pki {
    /// Makes all of it and writes what the server reads: ca.crt, server.crt, server.key, and two keys for tokens, tokens and
    /// rotated, each .key and .pub.
    pub fn create(folder: &Path) -> Self {
        let write = |file: &str, pem: &str| fs::write(folder.join(file), pem).expect("written");
        let authority_key = KeyPair::generate().expect("key");
        let mut authority = parameters("test", None, &[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key).expect("authority").pem();
        let authority = Issuer::new(authority, authority_key);
        let leaf = |parameters: CertificateParams| {
            let key = KeyPair::generate().expect("key");
            let certificate = parameters.signed_by(&key, &authority).expect("leaf");
            (certificate.pem(), key.serialize_pem())
        };
        let (server_certificate, server_key) = leaf(parameters("kube-apiserver", None, &["127.0.0.1"]));
        // This group may do everything, whatever the rules say.
        let (client_certificate, client_key) = leaf(parameters("admin", Some("system:masters"), &[]));
        let operator = leaf(parameters(OPERATOR, Some("system:masters"), &[]));
        write("ca.crt", &ca);
        write("server.crt", &server_certificate);
        write("server.key", &server_key);
        for tokens in ["tokens", "rotated"] {
            let key = KeyPair::generate().expect("key");
            write(&format!("{tokens}.key"), &key.serialize_pem());
            write(&format!("{tokens}.pub"), &key.public_key_pem());
        }
        Self { folder: folder.to_owned(), ca, client_certificate, client_key, operator }
    }
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
