//! The finalizer: set before anything is made outside Kubernetes, removed when that is undone.

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::{Context, Owner};
use crate::reconcile::error::Error;

const FINALIZER: &str = "tidegate.io/cleanup";

/// Where in its life a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is wanted.
    Live,
    /// It is to go, and waits for us.
    Deleting,
    /// It is to go, and does not wait for us.
    Gone,
}

/// Finds the phase.
pub fn phase<K: Resource<DynamicType = ()>>(resource: &K) -> Phase {
    match (resource.meta().deletion_timestamp.is_some(), is_set(resource)) {
        (false, _) => Phase::Live,
        (true, true) => Phase::Deleting,
        (true, false) => Phase::Gone,
    }
}

/// From here on the resource will not go without us.
///
/// # Errors
/// The API server did not take it.
pub async fn ensure<K>(context: &Context, resource: &K, owner: &Owner) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    if is_set(resource) {
        return Ok(());
    }
    let mut finalizers = resource.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    set(context, resource, owner, finalizers).await
}

/// Whether the resource does not go without us.
pub fn is_set<K: Resource<DynamicType = ()>>(resource: &K) -> bool {
    resource.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Lets the resource go.
///
/// # Errors
/// The API server did not take it. Gone already: fine.
pub async fn remove<K>(context: &Context, resource: &K, owner: &Owner) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let others = resource.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    match set(context, resource, owner, others).await {
        Err(Error::Kubernetes(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        other => other,
    }
}

async fn set<K>(context: &Context, resource: &K, owner: &Owner, finalizers: Vec<String>) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &owner.namespace);
    // The resource version makes it a compare-and-swap: another controller's finalizer is never undone.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": resource.resource_version()}});
    let written = api.patch(&owner.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    context.written.note(owner.key::<K>(), written.meta());
    Ok(())
}
