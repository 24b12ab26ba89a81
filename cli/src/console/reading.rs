//! What the pages read, with the user's rights. Nothing of it is kept.

use std::future::Future;
use std::time::Duration;

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::stored::Location;
use crate::target::is_name;
use crate::terminal::text;

/// Everything that a part of a page asks for.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Namespaces that are offered.
pub const MAX_NAMESPACES: u32 = 500;

/// The cluster of the kubeconfig.
pub struct Cluster {
    client: Client,
    /// Where a user begins, and how commands name the cluster.
    pub location: Location,
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
