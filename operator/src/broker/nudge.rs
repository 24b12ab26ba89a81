//! Makes the kubelets look at a broker's pods when its topics changed, or what its servers load.
//!
//! A kubelet brings what a pod mounts up to date when it looks at the pod: about once a minute, and whenever the pod
//! changes. So a changed file, certificates included, is followed by an annotation of the pods, and a topic is served within a second
//! instead of a minute. It may look before it has heard of the file's change itself; so as long as a topic waits to be
//! served, or a server to load its configuration, the annotation changes again every few seconds.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::context::{Context, Owner};
use crate::kubernetes::apply::Child;
use crate::sessions::brokers::BrokerKey;

/// Carries the hash of the files, and when it was written.
const TOPICS: &str = "tidegate.io/topics";
/// Between two annotations for the same file.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// The brokers of which a topic waits to be served, or a server to load its configuration.
#[derive(Default)]
pub struct Unserved(Mutex<HashSet<BrokerKey>>);

impl Unserved {
    /// One of this broker waits.
    pub fn add(&self, broker: BrokerKey) {
        self.lock().insert(broker);
    }

    /// Whether one of this broker was waiting; it says so again while it does.
    fn take(&self, broker: &BrokerKey) -> bool {
        self.lock().remove(broker)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<BrokerKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Annotates these pods where that is due. What fails is done again: the kubelet looks in any case.
pub async fn pods(context: &Context, owner: &Owner, pods: &[Pod], files: &[&Child]) {
    let hash =
        files.iter().fold(Sha256::new(), |hash, file| hash.chain_update(file.value["data"].to_string())).finalize();
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let now = jiff::Timestamp::now().as_second();
    let waits = context.unserved.take(&super::key(owner));
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &owner.namespace);
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let before = pod.annotations().get(TOPICS).map(String::as_str);
        if !is_due(before, &hash, now, waits) {
            continue;
        }
        let patch = Patch::Merge(json!({"metadata": {"annotations": {TOPICS: format!("{hash}-{now}")}}}));
        if let Err(error) = api.patch_metadata(&pod.name_any(), &PatchParams::default(), &patch).await {
            tracing::debug!(pod = pod.name_any(), %error, "the pod was not annotated");
        }
    }
}

/// Whether a pod with this annotation is annotated again. One that has none found the file as it is when it started,
/// unless a topic waits.
fn is_due(before: Option<&str>, hash: &str, now: i64, waits: bool) -> bool {
    let Some((known, since)) = before.and_then(|before| before.rsplit_once('-')) else { return waits };
    let age = since.parse::<i64>().map_or(i64::MAX, |since| now.saturating_sub(since));
    known != hash || waits && age >= i64::try_from(AGAIN_AFTER.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_annotated_for_a_new_file_and_again_while_a_topic_waits() {
        for (before, waits, due) in [
            (None, false, false),
            (None, true, true),
            (Some("a-100"), false, false),
            (Some("b-100"), false, true),
            (Some("a-100"), true, false),
            (Some("a-90"), true, true),
            (Some("a-soon"), true, true),
            (Some("nonsense"), false, false),
        ] {
            assert_eq!(is_due(before, "a", 101, waits), due, "{before:?} {waits}");
        }
    }
}
