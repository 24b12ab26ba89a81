//! Volumes that are to become larger: their claims ask for it, and the storage does it. What topics may be promised grows
//! when all volumes have ([`crate::broker::volumes`]).

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::broker::volumes::Volume;
use crate::context::{Context, Owner};
use crate::kubernetes::names::FIELD_MANAGER;
use crate::reconcile::error::Error;

/// While volumes grow: no watch tells of that.
const GROWING: Duration = Duration::from_secs(10);
/// While one may not: its StorageClass may come to allow it.
const REFUSED: Duration = Duration::from_secs(30);

/// How far the volumes are that are smaller than they are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resize {
    /// Claims whose volumes have not grown yet, and what keeps each.
    waiting: Vec<String>,
    /// What the API server says to a claim that it does not let grow.
    refused: Option<String>,
}

impl Resize {
    /// When to look again; `None`: every volume has its size.
    pub(super) fn again(&self) -> Option<Duration> {
        if self.waiting.is_empty() { self.refused.as_ref().map(|_| REFUSED) } else { Some(GROWING) }
    }

    /// The condition; `None`: there is nothing to say.
    pub(super) fn finding(&self) -> Option<Finding> {
        let finding = |reason, message| Some(Finding::new(kind::RESIZING, Status::True, reason, message));
        match &self.refused {
            Some(refused) => finding("VolumesRefused", refused.clone()),
            None if self.waiting.is_empty() => None,
            None => finding(
                "WaitingForVolumes",
                format!(
                    "the storage enlarges the volumes; topics can be promised more when all are larger: {}",
                    self.waiting.join("; ")
                ),
            ),
        }
    }
}

/// Makes the claims of these volumes ask for as many bytes as they are to have. `size`: the same as the user wrote it.
///
/// # Errors
/// The API server is away. That it refuses a claim is none.
pub(super) async fn ensure(
    context: &Context,
    owner: &Owner,
    volumes: &[Volume],
    (wanted, size): (u64, &str),
) -> Result<Resize, Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &owner.namespace);
    let mut resize = Resize::default();
    for volume in volumes.iter().filter(|volume| volume.usable < wanted) {
        if volume.requested < wanted {
            let patch = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": size}}}}));
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            match claims.patch(&volume.name, &params, &patch).await {
                Ok(_) => tracing::info!(claim = volume.name, size, "asked for a larger volume"),
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
                    resize.refused.get_or_insert_with(|| refused(volume, size, &status.message));
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        resize.waiting.push(volume.progress());
    }
    Ok(resize)
}

fn refused(volume: &Volume, size: &str, why: &str) -> String {
    format!(
        "PersistentVolumeClaim {} cannot be enlarged to {size}, and works on as it is: {why}. Set allowVolumeExpansion: true on its StorageClass if its storage can grow; else make a second broker with the larger size and topics on it",
        volume.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_says_what_to_do_and_nothing_to_do_says_nothing() {
        assert_eq!(Resize::default().finding(), None);
        let volume = Volume { name: "data-a-broker-0".into(), requested: 1, usable: 1, pending: None };
        let resize = Resize { refused: Some(refused(&volume, "2Gi", "no")), ..Resize::default() };
        let finding = resize.finding().unwrap();
        assert_eq!(finding.reason, "VolumesRefused");
        assert!(finding.message.contains("data-a-broker-0") && finding.message.contains("allowVolumeExpansion"));
        let waiting = Resize { waiting: vec![volume.progress()], ..Resize::default() };
        assert_eq!(waiting.finding().unwrap().reason, "WaitingForVolumes");
        let again = [waiting, resize, Resize::default()].map(|resize| resize.again());
        assert_eq!(again, [Some(GROWING), Some(REFUSED), None]);
    }
}
