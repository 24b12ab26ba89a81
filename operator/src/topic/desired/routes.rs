//! Which authority the brokers of a topic trust on their routes. Pure.
//!
//! Brokers of version 0.1 show and trust leaves of the one authority there was. A broker that trusts only the routes'
//! own could not join them, so such a topic gets there in three rollouts, each after the one before is complete;
//! brokers of neighbouring steps understand each other.

use k8s_openapi::api::apps::v1::StatefulSet;

/// The annotation of the pod template that says the step.
pub const ANNOTATION: &str = "tidegate.io/route-trust";

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTrust {
    /// Shows a leaf of the shared authority and trusts both.
    Shared,
    /// Shows a leaf of the routes' own authority and trusts both.
    Presented,
    /// Shows a leaf of the routes' own authority and trusts no other.
    Own,
}

impl RouteTrust {
    const ALL: [Self; 3] = [Self::Shared, Self::Presented, Self::Own];

    /// Its name in the annotation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "Shared",
            Self::Presented => "Presented",
            Self::Own => "Own",
        }
    }

    /// The step for brokers of this StatefulSet; `None` for a single one, which has no routes.
    pub fn of(statefulset: Option<&StatefulSet>, replicas: i32) -> Option<Self> {
        if replicas < 2 {
            return None;
        }
        let Some(statefulset) = statefulset else { return Some(Self::Own) };
        let annotations =
            statefulset.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref());
        let name = annotations.and_then(|annotations| annotations.get(ANNOTATION));
        let now = Self::ALL.into_iter().find(|step| name.is_some_and(|name| name == step.name()));
        Some(match now {
            // Version 0.1, or somebody changed the annotation: what all understand.
            None => Self::Shared,
            Some(step) if !is_rolled_out(statefulset) => step,
            Some(Self::Shared) => Self::Presented,
            Some(Self::Presented | Self::Own) => Self::Own,
        })
    }
}

/// Whether every pod has the template that the StatefulSet has, and is ready.
fn is_rolled_out(statefulset: &StatefulSet) -> bool {
    let (Some(spec), Some(status)) = (&statefulset.spec, &statefulset.status) else { return false };
    let replicas = spec.replicas.unwrap_or(1);
    status.observed_generation == statefulset.metadata.generation
        && status.update_revision.is_some()
        && status.current_revision == status.update_revision
        && status.updated_replicas == Some(replicas)
        && status.ready_replicas == Some(replicas)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn statefulset(step: Option<&str>, ready: i32, current: &str) -> StatefulSet {
        let annotations = step.map(|step| json!({ANNOTATION: step}));
        serde_json::from_value(json!({
            "metadata": {"generation": 3},
            "spec": {
                "replicas": 3, "serviceName": "x", "selector": {},
                "template": {"metadata": {"annotations": annotations}},
            },
            "status": {
                "observedGeneration": 3, "replicas": 3, "updatedReplicas": 3, "readyReplicas": ready,
                "currentRevision": current, "updateRevision": "b",
            },
        }))
        .unwrap()
    }

    #[test]
    fn each_step_waits_for_the_one_before() {
        use RouteTrust::{Own, Presented, Shared};
        let complete = |step| statefulset(step, 3, "b");
        for (found, expected) in [
            (complete(None), Shared),
            (complete(Some("nonsense")), Shared),
            (complete(Some("Shared")), Presented),
            (complete(Some("Presented")), Own),
            (complete(Some("Own")), Own),
            (statefulset(Some("Shared"), 2, "b"), Shared),
            (statefulset(Some("Shared"), 3, "a"), Shared),
            (statefulset(Some("Presented"), 2, "b"), Presented),
            (statefulset(Some("Own"), 0, "a"), Own),
        ] {
            assert_eq!(RouteTrust::of(Some(&found), 3), Some(expected), "{found:?}");
        }
        let mut unseen = complete(Some("Shared"));
        unseen.metadata.generation = Some(4);
        assert_eq!(RouteTrust::of(Some(&unseen), 3), Some(Shared), "its status is of an older template");
        assert_eq!(RouteTrust::of(None, 3), Some(Own), "a new topic");
        assert_eq!(RouteTrust::of(Some(&complete(None)), 1), None);
    }
}
