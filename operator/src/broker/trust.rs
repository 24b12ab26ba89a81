//! By what the ingresses of a broker recognise publishers: the cluster's keys, and the authorities of client certificates.
//!
//! What cannot be read, or is of no use, changes nothing: then what the ingresses were given last stays, and a condition
//! says so.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tidegate_broker_client::contract::{MAX_CLIENT_CAS, TOPICS_FILE, TokenTrust, Topics};
use tidegate_crds::EventBroker;
use tidegate_crds::broker::CaConfigMap;
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::context::{Context, Owner};
use crate::identity::token_keys::{Known, TokenKeysError};
use crate::kubernetes::names;
use crate::reconcile::error::Error;

/// By what the ingresses recognise publishers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// Issuer and keys of tokens; `None`: no token is taken.
    pub tokens: Option<TokenTrust>,
    /// Authorities of client certificates, PEM; `None`: no certificate is taken.
    pub client_cas: Option<String>,
    /// What is said of it in the status.
    pub findings: Vec<Finding>,
}

/// Reads it.
///
/// # Errors
/// The API server is away.
pub async fn read(context: &Context, owner: &Owner, broker: &EventBroker) -> Result<Trust, Error> {
    let known = context.token_keys.known();
    let wanted = broker.spec.client_certificates.as_ref().map(|certificates| &certificates.ca_config_map);
    let authorities = match wanted {
        Some(wanted) => Some(authorities(context, owner, wanted).await?),
        None => None,
    };
    let is_missing = known.trust.is_none() || matches!(authorities, Some(Err(_)));
    let before = if is_missing { given_last(context, owner).await? } else { Topics::default() };
    Ok(decide(known, authorities, before))
}

/// Pure. `before`: what the ingresses were given last.
fn decide(known: Known, authorities: Option<Result<String, Unusable>>, before: Topics) -> Trust {
    let tokens = known.trust.clone().or(before.tokens);
    let mut findings = vec![tokens_accepted(&known, tokens.is_some())];
    let client_cas = match authorities {
        None => None,
        Some(Ok(authorities)) => {
            let message = "the authorities of client certificates are known";
            findings.push(Finding::new(kind::CERTIFICATES_ACCEPTED, Status::True, "AuthoritiesKnown", message));
            Some(authorities)
        }
        Some(Err(Unusable { reason, message })) => {
            let kept = if before.client_cas.is_some() {
                "Those that were read before stay in force"
            } else {
                "No client certificate is taken"
            };
            let message = format!("{message}. {kept}");
            findings.push(Finding::new(kind::CERTIFICATES_ACCEPTED, Status::False, reason, message));
            before.client_cas
        }
    };
    Trust { tokens, client_cas, findings }
}

fn tokens_accepted(known: &Known, is_any: bool) -> Finding {
    let found = |status, reason, message: String| Finding::new(kind::TOKENS_ACCEPTED, status, reason, message);
    let remedy = match &known.failure {
        Some(TokenKeysError::NotRead { .. }) => {
            "The operator's ServiceAccount needs the rights of ClusterRole system:service-account-issuer-discovery, which every ServiceAccount has unless its binding was removed"
        }
        _ => {
            "Keys of the API server (--service-account-signing-key-file) must be RSA, or of the curves P-256, P-384 or Ed25519"
        }
    };
    match (&known.failure, is_any) {
        (None, false) => found(Status::Unknown, "KeysNotRead", "the cluster's keys are not read yet".to_owned()),
        (None, true) if known.unusable.is_empty() => {
            found(Status::True, "KeysKnown", "the keys that sign tokens of ServiceAccounts are known".to_owned())
        }
        (None, true) => {
            let message =
                format!("tokens are taken, except for those that are signed by {}", known.unusable.join(", "));
            found(Status::True, "SomeKeysUnusable", message)
        }
        (Some(error), true) => {
            let message = format!("tokens are verified with the keys that were read before: {error}. {remedy}");
            found(Status::True, "KeysKept", message)
        }
        (Some(error), false) => {
            let message = format!("publishers with tokens of ServiceAccounts are refused: {error}. {remedy}");
            found(Status::False, "KeysUnknown", message)
        }
    }
}

/// Why authorities are of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unusable {
    reason: &'static str,
    message: String,
}

async fn authorities(
    context: &Context,
    owner: &Owner,
    wanted: &CaConfigMap,
) -> Result<Result<String, Unusable>, Error> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &owner.namespace);
    let found = api.get_opt(&wanted.name).await?;
    Ok(certificates(found.as_ref(), wanted))
}

/// The certificates alone, as the file takes them.
fn certificates(found: Option<&ConfigMap>, wanted: &CaConfigMap) -> Result<String, Unusable> {
    let CaConfigMap { name, key } = wanted;
    let unusable = |reason, message: String| Unusable { reason, message };
    let Some(found) = found else {
        let message = format!(
            "there is no ConfigMap {name} in this namespace: make it, with the certificate authorities in its key {key}"
        );
        return Err(unusable("ConfigMapNotFound", message));
    };
    let Some(text) = found.data.as_ref().and_then(|data| data.get(key)) else {
        let message = format!(
            "ConfigMap {name} has no key {key}: add it, or name another in spec.clientCertificates.caConfigMap.key"
        );
        return Err(unusable("KeyNotFound", message));
    };
    if text.len() > MAX_CLIENT_CAS {
        let message = format!(
            "{key} of ConfigMap {name} has {} bytes, and {MAX_CLIENT_CAS} are taken: keep only the authorities that sign certificates of publishers",
            text.len()
        );
        return Err(unusable("TooManyAuthorities", message));
    }
    let invalid = |why: String| {
        let message = format!(
            "{key} of ConfigMap {name} has no certificate authorities that can be used ({why}): write certificates as PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
        );
        unusable("InvalidAuthorities", message)
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() { Err(invalid("there is none".to_owned())) } else { Ok(text.clone()) }
}

/// The file of the ingresses as it is; empty if there is none that can be read.
async fn given_last(context: &Context, owner: &Owner) -> Result<Topics, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &owner.namespace);
    let secret = api.get_opt(&names::topics(&owner.name)).await?;
    let content = secret.and_then(|secret| secret.data?.remove(TOPICS_FILE));
    Ok(content.and_then(|content| Topics::parse(&content.0).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_broker_admin::Authority;
    use time::OffsetDateTime;

    use super::*;

    fn trust(issuer: &str) -> TokenTrust {
        TokenTrust { issuer: issuer.into(), ..TokenTrust::default() }
    }

    fn before() -> Topics {
        Topics { tokens: Some(trust("before")), client_cas: Some("before".into()), ..Topics::default() }
    }

    fn said(trust: &Trust, kind: &str) -> (Status, String, String) {
        let found = trust.findings.iter().find(|finding| finding.kind == kind).unwrap();
        (found.status, found.reason.clone(), found.message.clone())
    }

    #[test]
    fn keys_that_were_given_stay_until_others_are_read() {
        let failure = Some(TokenKeysError::NotRead { path: "/openid/v1/jwks", why: "forbidden".into() });
        let failed = Known { failure, ..Known::default() };
        for (known, before, issuer, status, reason) in [
            (Known::default(), Topics::default(), None, Status::Unknown, "KeysNotRead"),
            (failed.clone(), Topics::default(), None, Status::False, "KeysUnknown"),
            (failed.clone(), before(), Some("before"), Status::True, "KeysKept"),
            (Known { trust: Some(trust("now")), ..failed }, before(), Some("now"), Status::True, "KeysKept"),
            (Known { trust: Some(trust("now")), ..Known::default() }, before(), Some("now"), Status::True, "KeysKnown"),
        ] {
            let found = decide(known, None, before);
            assert_eq!(found.tokens.as_ref().map(|tokens| tokens.issuer.as_str()), issuer, "{reason}");
            let (is, why, message) = said(&found, kind::TOKENS_ACCEPTED);
            assert_eq!((is, why.as_str()), (status, reason), "{message}");
            assert_eq!(found.client_cas, None, "certificates are not asked for");
        }
    }

    #[test]
    fn authorities_that_are_of_no_use_change_nothing() {
        let unusable = || Some(Err(Unusable { reason: "ConfigMapNotFound", message: "there is none".into() }));
        let found = decide(Known::default(), unusable(), before());
        assert_eq!(found.client_cas.as_deref(), Some("before"));
        let (status, _, message) = said(&found, kind::CERTIFICATES_ACCEPTED);
        assert!(status == Status::False && message.contains("stay in force"), "{message}");
        let found = decide(Known::default(), unusable(), Topics::default());
        assert_eq!(found.client_cas, None);
        assert!(said(&found, kind::CERTIFICATES_ACCEPTED).2.contains("No client certificate is taken"));
    }

    #[test]
    fn authorities_are_whole_certificates() {
        let pem = Authority::generate("test", OffsetDateTime::now_utc()).unwrap().trusted_servers();
        let wanted = CaConfigMap { name: "cas".into(), key: "ca.crt".into() };
        let read = |data: serde_json::Value| {
            let map: ConfigMap = serde_json::from_value(json!({"metadata": {}, "data": data})).unwrap();
            certificates(Some(&map), &wanted)
        };
        assert_eq!(read(json!({"ca.crt": format!("# ours\n{pem}{pem}")})).unwrap(), format!("# ours\n{pem}{pem}"));
        let half = &pem[..pem.len() / 2];
        for (data, reason) in [
            (json!({"other": pem}), "KeyNotFound"),
            (json!({"ca.crt": ""}), "InvalidAuthorities"),
            (json!({"ca.crt": half}), "InvalidAuthorities"),
            (json!({"ca.crt": format!("{pem}{half}")}), "InvalidAuthorities"),
            (json!({"ca.crt": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}), "InvalidAuthorities"),
            (json!({"ca.crt": "x".repeat(MAX_CLIENT_CAS + 1)}), "TooManyAuthorities"),
        ] {
            let error = read(data).unwrap_err();
            assert_eq!(error.reason, reason, "{}", error.message);
            assert!(error.message.contains("ConfigMap cas"), "{}", error.message);
        }
        assert_eq!(certificates(None, &wanted).unwrap_err().reason, "ConfigMapNotFound");
    }
}
