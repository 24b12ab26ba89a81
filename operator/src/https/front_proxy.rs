//! The API server's front proxy: by which certificate it is recognised, and where it says for whom it asks.
//!
//! The API server describes it in the ConfigMap `kube-system/extension-apiserver-authentication`. Whoever else comes is
//! nobody, whatever headers it sends.

use std::io;
use std::sync::Arc;

use axum::http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use percent_encoding::percent_decode_str;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::parse_x509_certificate;

/// Where the API server describes it.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
/// Groups of a user at most.
const MAX_GROUPS: usize = 1000;

/// How the front proxy is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontProxy {
    /// Authority of its certificate, PEM.
    pub client_ca: String,
    /// Common names that its certificate may have; empty: any.
    allowed_names: Vec<String>,
    username_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// For whom the front proxy asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else its authenticator said of it, with several values for a name.
    pub extra: Vec<(String, String)>,
}

impl FrontProxy {
    /// Reads it; `None`: this API server has none.
    ///
    /// # Errors
    /// It cannot be read now.
    pub async fn read(client: &Client) -> Result<Option<Self>, String> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let found = api.get_opt(CONFIG_MAP).await.map_err(|error| error.to_string())?;
        Ok(found.as_ref().and_then(Self::parse))
    }

    fn parse(found: &ConfigMap) -> Option<Self> {
        let data = found.data.as_ref()?;
        let list = |key: &str| data.get(key).map_or(Some(Vec::new()), |text| serde_json::from_str(text).ok());
        Some(Self {
            client_ca: data.get("requestheader-client-ca-file").filter(|ca| roots(ca).is_ok())?.clone(),
            allowed_names: list("requestheader-allowed-names")?,
            username_headers: list("requestheader-username-headers")?,
            group_headers: list("requestheader-group-headers")?,
            extra_prefixes: list("requestheader-extra-headers-prefix")?,
        })
    }

    /// Whether this certificate, which [`FrontProxy::client_ca`] has signed, is the front proxy's.
    pub fn is(&self, certificate: &[u8]) -> bool {
        if self.allowed_names.is_empty() {
            return true;
        }
        let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return false };
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.any(|name| self.allowed_names.iter().any(|allowed| allowed == name))
    }

    /// The user that the headers name; `None`: they name none.
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let all = |name: &String| headers.get_all(name.as_str()).into_iter().filter_map(|value| value.to_str().ok());
        let name = self.username_headers.iter().flat_map(all).find(|name| !name.is_empty())?.to_owned();
        let groups = self.group_headers.iter().flat_map(all).take(MAX_GROUPS).map(str::to_owned).collect();
        let mut extra = Vec::new();
        for (header, value) in headers {
            let key = self
                .extra_prefixes
                .iter()
                .find_map(|prefix| header.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                extra.push((unescaped(key), value.to_owned()));
            }
        }
        Some(User { name, groups, extra })
    }
}

/// What `%XX` in the name of a header stands for.
fn unescaped(key: &str) -> String {
    percent_decode_str(key).decode_utf8_lossy().into_owned()
}

fn roots(pem: &str) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() { Err(io::Error::other("no certificate")) } else { Ok(roots) }
}

/// How to serve with this certificate, and ask for those that `client_ca` has signed: who shows none may use the webhook.
///
/// # Errors
/// Something of it is not usable.
pub fn server_config(certificate: &str, key: &str, client_ca: Option<&str>) -> io::Result<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?)).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(io::Error::other)?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn proxy(names: &str) -> FrontProxy {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem();
        let data = json!({
            "requestheader-client-ca-file": ca, "requestheader-allowed-names": names,
            "requestheader-username-headers": r#"["X-Remote-User"]"#,
            "requestheader-group-headers": r#"["X-Remote-Group"]"#,
            "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
        });
        FrontProxy::parse(&serde_json::from_value(json!({"data": data})).unwrap()).unwrap()
    }

    #[test]
    fn a_user_has_a_name_groups_and_more() {
        let mut headers = HeaderMap::new();
        assert_eq!(proxy("[]").user(&headers), None);
        headers.append("x-remote-user", "ann".parse().unwrap());
        headers.append("x-remote-group", "a".parse().unwrap());
        headers.append("x-remote-group", "b".parse().unwrap());
        headers.append("x-remote-extra-acme%2fscope", "c".parse().unwrap());
        let user = proxy("[]").user(&headers).unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("ann", vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(user.extra, [("acme/scope".to_owned(), "c".to_owned())]);
    }

    #[test]
    fn only_certificates_with_an_allowed_name_are_the_front_proxys() {
        let made = |name: &str| {
            let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
            parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
        };
        let one = proxy(r#"["front-proxy-client"]"#);
        assert!(one.is(&made("front-proxy-client")) && !one.is(&made("kubelet")) && !one.is(b"-"));
        assert!(proxy("[]").is(&made("kubelet")));
    }

    #[test]
    fn without_a_usable_authority_there_is_no_front_proxy() {
        for data in [json!(null), json!({}), json!({"requestheader-client-ca-file": "-"})] {
            let found: ConfigMap = serde_json::from_value(json!({"data": data})).unwrap();
            assert_eq!(FrontProxy::parse(&found), None);
        }
    }
}
