//! The node's certificates: one authority, three leaves, the front proxy's own authority and leaf, and the key that signs
//! ServiceAccount tokens.
//!
//! They are made anew for every node and live a month, longer than any cluster for tests.

use std::fs;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::config::{API_SERVICE_IP, NODE_IP, NODE_NAME};
use crate::state::State;

/// The name of the API server's front proxy.
pub const FRONT_PROXY: &str = "front-proxy-client";

const LIFETIME: Duration = Duration::days(30);

/// A leaf: file name, common name, organisation, subject alternative names.
type Leaf = (&'static str, String, Option<&'static str>, Vec<String>);

/// Writes all certificates and keys to the state's `pki` folder.
///
/// # Errors
/// A key cannot be made or a file cannot be written.
pub fn create(state: &State) -> Result<()> {
    let authority = authority(state, "ca", "tidegate-cluster")?;
    for leaf in leaves() {
        sign(state, &authority, leaf)?;
    }
    // Whatever else this authority signed could name any user to an aggregated API.
    let front_proxy = self::authority(state, "front-proxy-ca", "tidegate-front-proxy")?;
    sign(state, &front_proxy, ("front-proxy", FRONT_PROXY.to_owned(), None, Vec::new()))?;
    let tokens = KeyPair::generate()?;
    write(state, "sa.key", &tokens.serialize_pem())?;
    write(state, "sa.pub", &tokens.public_key_pem())
}

/// Makes an authority under this file name.
fn authority(state: &State, file: &str, name: &str) -> Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::generate()?;
    let mut authority = parameters(name, None, Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    write(state, &format!("{file}.crt"), &authority.self_signed(&key)?.pem())?;
    write(state, &format!("{file}.key"), &key.serialize_pem())?;
    Ok(Issuer::new(authority, key))
}

fn sign(
    state: &State,
    authority: &Issuer<'static, KeyPair>,
    (file, name, organisation, addresses): Leaf,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut leaf = parameters(&name, organisation, addresses)?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    write(state, &format!("{file}.crt"), &leaf.signed_by(&key, authority)?.pem())?;
    write(state, &format!("{file}.key"), &key.serialize_pem())
}

fn leaves() -> [Leaf; 3] {
    let api = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"];
    let api = api.into_iter().chain([API_SERVICE_IP, NODE_IP]).map(str::to_owned).collect();
    let kubelet = vec![NODE_NAME.to_owned(), NODE_IP.to_owned()];
    [
        ("apiserver", "kube-apiserver".to_owned(), None, api),
        ("admin", "admin".to_owned(), Some("system:masters"), Vec::new()),
        ("kubelet", format!("system:node:{NODE_NAME}"), Some("system:nodes"), kubelet),
    ]
}

fn parameters(name: &str, organisation: Option<&str>, addresses: Vec<String>) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(addresses)?;
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        parameters.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    let now = OffsetDateTime::now_utc();
    // A little earlier: the clock may be stepped back.
    parameters.not_before = now - Duration::minutes(5);
    parameters.not_after = now + LIFETIME;
    Ok(parameters)
}

fn write(state: &State, file: &str, pem: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = state.join("pki").join(file);
    fs::write(&path, pem).with_context(|| format!("writing {}", path.display()))?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_has_a_key_and_the_authority_signs() {
        let folder = tempfile::tempdir().unwrap();
        let state = State { name: "test".into(), root: folder.path().into() };
        state.create().unwrap();
        create(&state).unwrap();
        for file in ["ca", "apiserver", "admin", "kubelet", "front-proxy-ca", "front-proxy"] {
            let certificate = fs::read_to_string(state.join(&format!("pki/{file}.crt"))).unwrap();
            assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{file}");
            let key = fs::read_to_string(state.join(&format!("pki/{file}.key"))).unwrap();
            assert!(KeyPair::from_pem(&key).is_ok(), "{file}");
        }
        let public = fs::read_to_string(state.join("pki/sa.pub")).unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
    }
}
