//! The certificate of the operator's HTTPS: kept in a Secret that all operator pods share, and made known to the API server.
//!
//! Who finds it missing or near its end makes it; of two that do so at once the API server takes one, and the other
//! reads that one a moment later.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tidegate_broker_admin::issuers::certificate_needs_renewal;
use tidegate_broker_admin::{Authority, Leaf, LeafRequest, Usage};
use tidegate_broker_client::identity::file;
use time::OffsetDateTime;

use crate::identity::authority::{self, Data};
use crate::identity::keys;
use crate::kubernetes::names::{FIELD_MANAGER, MANAGED_BY};
use crate::reconcile::error::Error;
use crate::subresources::API_SERVICE;

/// What to serve with.
pub struct Current {
    /// Certificate and key.
    pub leaf: Leaf,
    /// Whether the API server was told; not if the chart has not configured it yet.
    pub is_known: bool,
}

/// The Secret and the configuration of the API server.
pub struct Certificates {
    secrets: Api<Secret>,
    webhooks: Api<ValidatingWebhookConfiguration>,
    /// Where there is an aggregated API.
    api_services: Option<Api<APIService>>,
    name: String,
    namespace: String,
    host: String,
}

impl Certificates {
    /// Of the Service of this name: Secret and configuration of the webhook have the same one. `with_api`: there is an
    /// APIService too.
    pub fn new(client: Client, namespace: &str, name: &str, with_api: bool) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            webhooks: Api::all(client.clone()),
            api_services: with_api.then(|| Api::all(client)),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            host: format!("{name}.{namespace}.svc"),
        }
    }

    /// Makes or renews the certificate where that is due, and tells the API server by which authority to know it.
    ///
    /// # Errors
    /// The API server is away or refuses, or somebody else was faster: to be tried again.
    pub async fn ensure(&self) -> Result<Current, Error> {
        let present = self.secrets.get_opt(&self.name).await?;
        let wanted = wanted(present.as_ref(), &self.name, &self.host, OffsetDateTime::now_utc())?;
        if present.as_ref().map(authority::data).as_ref() != Some(&wanted) {
            self.keep(present, &wanted).await?;
        }
        let part = |name: &str| wanted.get(name).cloned().unwrap_or_default();
        let bundle = ByteString(part(keys::SERVERS_CA).into_bytes());
        let webhooks_know = self.tell_webhooks(&bundle).await?;
        // The chart makes both together, if it makes both.
        let is_known = if self.api_services.is_some() { self.tell_api_service(&bundle).await? } else { webhooks_know };
        Ok(Current { leaf: Leaf { certificate: part(file::CERTIFICATE), key: part(file::KEY) }, is_known })
    }

    /// Only over what was read, or where there was nothing.
    async fn keep(&self, present: Option<Secret>, wanted: &Data) -> Result<(), Error> {
        let secret = |version: Option<String>| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": wanted,
                "metadata": {"name": self.name, "labels": {MANAGED_BY.0: MANAGED_BY.1}, "resourceVersion": version},
            })
        };
        match present {
            Some(present) => {
                let patch = Patch::Merge(secret(present.metadata.resource_version));
                self.secrets.patch(&self.name, &PatchParams::default(), &patch).await?;
            }
            None => {
                let secret: Secret = serde_json::from_value(secret(None)).map_err(kube::Error::SerdeError)?;
                self.secrets.create(&PostParams::default(), &secret).await?;
            }
        }
        Ok(())
    }

    /// The configuration is the chart's, which may come after us; only the authority in it is ours.
    async fn tell_webhooks(&self, bundle: &ByteString) -> Result<bool, Error> {
        let Some(found) = self.webhooks.get_opt(&self.name).await? else { return Ok(false) };
        let webhooks = found.webhooks.unwrap_or_default();
        if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(bundle)) {
            return Ok(true);
        }
        let ours = |name: &str| json!({"name": name, "clientConfig": {"caBundle": bundle}});
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": webhooks.iter().map(|webhook| ours(&webhook.name)).collect::<Vec<Value>>(),
        });
        self.webhooks.patch(&self.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await?;
        Ok(true)
    }

    /// The same of the APIService, where it is the one of our Service: another release may have it.
    async fn tell_api_service(&self, bundle: &ByteString) -> Result<bool, Error> {
        let Some(api_services) = &self.api_services else { return Ok(false) };
        let Some(found) = api_services.get_opt(API_SERVICE).await? else { return Ok(false) };
        let Some(spec) = found.spec else { return Ok(false) };
        let is_ours = |name: Option<&String>, namespace: Option<&String>| {
            name == Some(&self.name) && namespace == Some(&self.namespace)
        };
        if !spec.service.as_ref().is_some_and(|service| is_ours(service.name.as_ref(), service.namespace.as_ref())) {
            return Ok(false);
        }
        if spec.ca_bundle.as_ref() != Some(bundle) {
            let patch = json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": API_SERVICE}, "spec": {"caBundle": bundle},
            });
            let patch = Patch::Merge(patch);
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            api_services.patch(API_SERVICE, &params, &patch).await?;
        }
        Ok(true)
    }
}

/// What the Secret should hold: what it holds, as far as that is good. (Unlike a topic's, a damaged authority may be
/// replaced: only the API server must know it, and it is told.)
fn wanted(present: Option<&Secret>, name: &str, host: &str, now: OffsetDateTime) -> Result<Data, Error> {
    let leaf = LeafRequest { name: name.to_owned(), hosts: vec![host.to_owned()], usage: Usage::Server };
    let of = |authority: &Authority| {
        let mut all = authority::identity(authority, present, &leaf, None, now)?;
        all.extend(keys::to_data(authority));
        Ok(all)
    };
    let is_good = |authority: &Authority| !certificate_needs_renewal(&authority.issuers.servers.certificate, now);
    let kept = present.and_then(|secret| keys::from_secret(secret).ok()).filter(is_good);
    match kept.and_then(|authority| of(&authority).ok()) {
        Some(wanted) => Ok(wanted),
        None => of(&Authority::generate(name, now)?),
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::identity::keys::SERVERS_CA;

    fn secret(data: &Data) -> Secret {
        let data = data.iter().map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn made(present: Option<&Data>, now: OffsetDateTime) -> Data {
        let present = present.map(secret);
        wanted(present.as_ref(), "webhook", "webhook.tidegate.svc", now).unwrap()
    }

    #[test]
    fn what_is_good_is_kept_and_what_ends_soon_is_renewed() {
        let now = OffsetDateTime::now_utc();
        let first = made(None, now);
        assert_eq!(made(Some(&first), now + Duration::days(30)), first);
        let renewed = made(Some(&first), now + Duration::days(61));
        assert_ne!(renewed[file::CERTIFICATE], first[file::CERTIFICATE]);
        assert_eq!(renewed[SERVERS_CA], first[SERVERS_CA], "the API server need not hear of it");
        assert_ne!(made(Some(&first), now + Duration::days(3640))[SERVERS_CA], first[SERVERS_CA]);
    }

    #[test]
    fn what_is_damaged_is_made_anew() {
        let now = OffsetDateTime::now_utc();
        let mut damaged = made(None, now);
        damaged.insert("servers-ca.key".into(), "-".into());
        assert_eq!(made(Some(&damaged), now), damaged, "the certificate is still good");
        for (key, value) in [(file::CERTIFICATE, "-"), ("root.key", "-")] {
            let mut damaged = damaged.clone();
            damaged.insert(key.into(), value.into());
            let mended = made(Some(&damaged), now);
            assert_ne!(mended[SERVERS_CA], damaged[SERVERS_CA]);
            assert_eq!(made(Some(&mended), now), mended);
        }
    }
}
