//! What the status of both resources has in common.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crds::conditions::{Finding, HasConditions, Status, kind};

use crate::context::{Context, Owner};
use crate::error::Error;
use crate::names::FIELD_MANAGER;
use crate::report;

/// Of a resource that no change is known to be needed for. (What else could be done, `Ready` says.)
const NOT_STALLED: &str = "no change to this resource is known to be needed";

/// `Ready` from its parts, with kstatus's two, then the parts themselves.
pub fn summary(parts: Vec<Finding>, when_ready: &str) -> Vec<Finding> {
    let ready = match parts.iter().find(|part| !part.is_true()) {
        None => Finding::new(kind::READY, Status::True, "Ready", when_ready),
        Some(part) => Finding::new(kind::READY, Status::False, part.reason.clone(), part.message.clone()),
    };
    let holds = |condition| if condition { Status::True } else { Status::False };
    let stalled = parts.iter().find(|part| part.is_stalled);
    let is_moving = !ready.is_true() && stalled.is_none();
    let mut found = vec![
        Finding::new(kind::RECONCILING, holds(is_moving), ready.reason.clone(), ready.message.clone()),
        match stalled {
            Some(part) => Finding::new(kind::STALLED, Status::True, part.reason.clone(), part.message.clone()),
            None => Finding::new(kind::STALLED, Status::False, "Progressing", NOT_STALLED),
        },
    ];
    found.insert(0, ready);
    found.extend(parts);
    found
}

/// The conditions after an error; the parts stay as they were.
pub fn failure_findings(error: &Error, before: &[Condition], parts: &[&'static str]) -> Vec<Finding> {
    let message = error.to_string();
    let person = error.needs_a_person();
    let status = |holds| if holds { Status::True } else { Status::False };
    let mut found = vec![
        Finding::new(kind::READY, Status::False, error.reason(), message.clone()),
        Finding::new(kind::RECONCILING, status(!person), error.reason(), message.clone()),
        Finding::new(kind::STALLED, status(person), error.reason(), message),
    ];
    for part in parts {
        let known = before.iter().find(|condition| condition.type_ == *part);
        found.push(match known {
            Some(known) => {
                let status = match known.status.as_str() {
                    "True" => Status::True,
                    "False" => Status::False,
                    _ => Status::Unknown,
                };
                Finding::new(part, status, known.reason.clone(), known.message.clone())
            }
            None => Finding::new(part, Status::Unknown, "NotReached", "not looked at yet"),
        });
    }
    found
}

/// Writes a status, unless it says what was there before.
///
/// # Errors
/// The API server did not take it.
pub async fn patch<K, S>(
    context: &Context,
    resource: &K,
    owner: &Owner,
    before: Option<&S>,
    status: &S,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
    S: Serialize + PartialEq + HasConditions,
{
    if before == Some(status) {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &owner.namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": owner.name, "uid": resource.uid()},
        "status": status,
    });
    api.patch_status(&owner.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await?;
    report::readiness(context, resource, before.and_then(S::ready), status.ready()).await;
    Ok(())
}
