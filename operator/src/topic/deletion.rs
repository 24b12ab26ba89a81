//! The end of a topic: what becomes of its volumes and keys.
//!
//! The policy in force is the topic's when it is deleted. While it lives nothing of its data hangs on an owner: neither
//! the claims (their StatefulSet retains them, so that deleting that takes no data) nor the Secret with the keys. With
//! `Delete` they are deleted here; with `Retain` it is made sure here that nothing takes them, before it is said.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tidegate_crds::EventTopic;
use tidegate_crds::topic::DeletionPolicy;

use crate::context::{Context, Owner};
use crate::error::Error;
use crate::names::{self, FIELD_MANAGER};
use crate::ownership::belongs_to;
use crate::report;
use crate::topic::observe::selected;

/// What holds a topic's data, read from the API server itself.
struct Storage {
    statefulsets: Api<StatefulSet>,
    claims: Api<PersistentVolumeClaim>,
    secrets: Api<Secret>,
}

/// Does with the topic's data as its policy says.
///
/// # Errors
/// It is not done yet: the topic must not go.
pub async fn settle(context: &Context, topic: &EventTopic, owner: &Owner) -> Result<(), Error> {
    let (client, namespace) = (&context.client, &owner.namespace);
    let storage = Storage {
        statefulsets: Api::namespaced(client.clone(), namespace),
        claims: Api::namespaced(client.clone(), namespace),
        secrets: Api::namespaced(client.clone(), namespace),
    };
    match topic.spec.deletion_policy {
        DeletionPolicy::Retain => {
            let kept = storage.retain(&owner.name).await?;
            report::event(context, topic, EventType::Normal, "StorageRetained", &kept).await;
        }
        DeletionPolicy::Delete => storage.delete(owner).await?,
    }
    Ok(())
}

impl Storage {
    /// Nothing takes the data any more; says what there is.
    async fn retain(&self, topic: &str) -> Result<String, Error> {
        let name = names::broker(topic);
        if let Some(statefulset) = self.statefulsets.get_opt(&name).await?
            && takes_claims(&statefulset)
        {
            let policy = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}});
            self.statefulsets.patch(&name, &params(), &Patch::Merge(policy)).await?;
        }
        let claims = self.claims.list(&selected(topic)).await?.items;
        for claim in &claims {
            // The StatefulSet's controller would take its reference back too: not if that is gone by then.
            if let Some(patch) = without_owners(claim, |owner| owner.kind == "StatefulSet") {
                self.claims.patch(&claim.name_any(), &params(), &patch).await?;
            }
        }
        let authority = names::authority(topic);
        let keys = self.secrets.get_opt(&authority).await?;
        if let Some(keys) = &keys
            && let Some(patch) = without_owners(keys, |owner| owner.kind == "EventTopic")
        {
            self.secrets.patch(&authority, &params(), &patch).await?;
        }
        let kept: Vec<String> = claims
            .iter()
            .map(|claim| match claim.metadata.deletion_timestamp {
                None => claim.name_any(),
                Some(_) => format!("{}, which somebody else has deleted and which goes", claim.name_any()),
            })
            .collect();
        let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        let keys = if keys.is_some() { "is kept" } else { "was gone before" };
        Ok(format!(
            "deletionPolicy is Retain: volumes ({kept}) are kept, Secret {authority} {keys}. A topic of the same name has its events again; delete them to be rid of the events."
        ))
    }

    /// The StatefulSet first: it would make claims again as long as it is there.
    async fn delete(&self, owner: &Owner) -> Result<(), Error> {
        let topic = &owner.name;
        let name = names::broker(topic);
        if let Some(statefulset) = self.statefulsets.get_opt(&name).await?
            && belongs_to(&statefulset.metadata, &owner.reference)
        {
            gone(self.statefulsets.delete(&name, &exactly(statefulset.uid())).await)?;
        }
        for claim in self.claims.list(&selected(topic)).await?.items {
            if claim.metadata.deletion_timestamp.is_none() {
                gone(self.claims.delete(&claim.name_any(), &exactly(claim.uid())).await)?;
            }
        }
        let authority = names::authority(topic);
        if let Some(keys) = self.secrets.get_opt(&authority).await? {
            gone(self.secrets.delete(&authority, &exactly(keys.uid())).await)?;
        }
        Ok(())
    }
}

fn takes_claims(statefulset: &StatefulSet) -> bool {
    let policy = statefulset.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.is_some_and(|policy| policy.when_deleted.as_deref() == Some("Delete"))
}

/// Takes the owners away with which the object would go.
fn without_owners<K: kube::Resource>(object: &K, goes_with: fn(&OwnerReference) -> bool) -> Option<Patch<Value>> {
    let meta = object.meta();
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    if !owners.iter().any(goes_with) {
        return None;
    }
    let others: Vec<_> = owners.iter().filter(|owner| !goes_with(owner)).collect();
    // The resource version: somebody else's reference is not undone.
    Some(Patch::Merge(json!({"metadata": {"ownerReferences": others, "resourceVersion": meta.resource_version}})))
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// This object, and not one that has its name by now.
fn exactly(uid: Option<String>) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::default() }
}

fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), Error> {
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
