//! What the pages read: resources and stored data, with the user's rights. Nothing of it is kept.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use axum::http::StatusCode;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::doctor::{self, show::Report};
use crate::moment::Moment;
use crate::stored::{self, CallError, Location};
use crate::target::{Kind, Target, is_name};
use crate::terminal::text;

/// Everything that a part of a page asks for.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Rows of a list in a page.
const MAX_ROWS: u32 = 100;
/// Namespaces that are offered.
pub const MAX_NAMESPACES: u32 = 500;

/// The cluster of the kubeconfig.
pub struct Cluster {
    client: Client,
    /// Where a user begins, and how commands name the cluster.
    pub location: Location,
}

/// A page of a list.
pub struct Rows<T> {
    /// What is in it.
    pub items: Vec<T>,
    /// Where the next page begins, where there is one.
    pub next: Option<String>,
    /// The first sequence that is stored, of stored data.
    pub first: Option<u64>,
}

impl Cluster {
    /// That of a client, which must not repeat by itself what is answered with 503.
    pub fn new(client: Client, location: Location) -> Self {
        Self { client, location }
    }

    /// The names of namespaces, [`MAX_NAMESPACES`] at most.
    ///
    /// # Errors
    /// They may not be listed, or the cluster does not answer.
    pub async fn namespaces(&self) -> Result<Vec<String>, Refusal> {
        let api = Api::<Namespace>::all(self.client.clone());
        let parameters = ListParams::default().limit(MAX_NAMESPACES);
        let found = answer("Namespaces", api.list_metadata(&parameters)).await?;
        Ok(found.items.iter().map(|namespace| namespace.name_any()).collect())
    }

    /// A page of a namespace's resources of a kind. `place`: where it begins, as the page before says.
    ///
    /// # Errors
    /// They may not be listed, or the cluster does not answer; or the place is none.
    pub async fn list<K>(&self, namespace: &str, place: Option<&str>) -> Result<Rows<K>, Refusal>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let mut parameters = ListParams::default().limit(MAX_ROWS);
        if let Some(place) = place {
            parameters = parameters.continue_token(place);
        }
        let api = Api::<K>::namespaced(self.client.clone(), self::name(namespace)?);
        let found = answer(&format!("{} of namespace {namespace}", K::plural(&())), api.list(&parameters)).await?;
        let next = found.metadata.continue_.filter(|next| !next.is_empty());
        Ok(Rows { items: found.items, next, first: None })
    }

    /// A resource.
    ///
    /// # Errors
    /// It is not there, or may not be read; or the cluster does not answer.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<K, Refusal>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), self::name(namespace)?);
        answer(&format!("{} {namespace}/{name}", K::kind(&())), api.get(self::name(name)?)).await
    }

    /// What doctor finds of a resource.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub async fn look(&self, namespace: &str, kind: Kind, name: &str) -> Result<Report, Refusal> {
        let target = Target { kind, name: self::name(name)?.to_owned() };
        let location = self.location.with_namespace(self::name(namespace)?);
        let looked = timeout(READ_TIMEOUT, doctor::look(&self.client, &location, &target)).await;
        Ok(looked.map_err(|_| Refusal::late("doctor"))??)
    }

    /// The API of a namespace's stored data.
    pub fn stored(&self, namespace: &str) -> stored::Api {
        stored::Api::new(self.client.clone(), self.location.with_namespace(namespace))
    }
}

/// A page of stored data. `times`: parameters that are times by the broker's clock. `limit`: so many items at most.
///
/// # Errors
/// It may not be read, or is away.
pub async fn stored_rows(
    api: &stored::Api,
    path: String,
    query: Vec<(&'static str, String)>,
    times: Vec<(&'static str, Moment)>,
    limit: u64,
) -> Result<Rows<Box<RawValue>>, Refusal> {
    let mut pages = api.pages(path, query, times, Some(limit));
    let items = in_time("The stored data", pages.next()).await?.unwrap_or_default();
    let next = pages.next_sequence().map(str::to_owned);
    Ok(Rows { items, next, first: pages.first_sequence() })
}

/// The answer to a call for stored data, in the time that a page has.
///
/// # Errors
/// There is none, or it refuses.
pub async fn in_time<T>(what: &str, call: impl Future<Output = Result<T, CallError>>) -> Result<T, Refusal> {
    Ok(timeout(READ_TIMEOUT, call).await.map_err(|_| Refusal::late(what))??)
}

/// A name that an address has.
///
/// # Errors
/// It is none that Kubernetes has, and could lead elsewhere.
pub fn name(name: &str) -> Result<&str, Refusal> {
    if is_name(name) {
        return Ok(name);
    }
    let sentence = format!("{:?} is no name that Kubernetes has: correct it.", text(name));
    Err(Refusal::new(StatusCode::BAD_REQUEST, sentence))
}

async fn answer<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    let answered = timeout(READ_TIMEOUT, call).await.map_err(|_| Refusal::late(what))?;
    answered.map_err(|error| Refusal::of_cluster(what, &error))
}
