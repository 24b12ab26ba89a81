//! Why there are no broker pods, or none with a volume: a StatefulSet and a claim say it in their Events only.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

use crate::context::{Context, Owner};
use crate::kubernetes::names;
use crate::kubernetes::pods::{Trouble, is_alive, is_ready, refused};
use crate::reconcile::error::Error;

/// Events that are looked at.
const EVENTS: u32 = 100;

/// What keeps the pods of this StatefulSet from being made or from having their volumes. Asks nothing while all are
/// ready.
///
/// # Errors
/// The API server is away.
pub async fn trouble(
    context: &Context,
    owner: &Owner,
    statefulset: Option<&StatefulSet>,
    pods: &[Pod],
    claims: &[PersistentVolumeClaim],
) -> Result<Option<Trouble>, Error> {
    let wanted =
        statefulset.and_then(|found| found.spec.as_ref()?.replicas).and_then(|count| usize::try_from(count).ok());
    let Some(wanted) = wanted.filter(|wanted| pods.iter().filter(|pod| is_ready(pod)).count() < *wanted) else {
        return Ok(None);
    };
    let missing = wanted.saturating_sub(pods.iter().filter(|pod| is_alive(pod)).count());
    let mut regarding: Vec<(&str, String)> =
        claims.iter().filter(|claim| is_pending(claim)).map(|claim| ("PersistentVolumeClaim", name(claim))).collect();
    if missing > 0 {
        regarding.push(("StatefulSet", names::broker(&owner.name)));
    }
    let events: Api<Event> = Api::namespaced(context.client.clone(), &owner.namespace);
    let mut warnings = Vec::new();
    for (kind, name) in regarding {
        let fields = format!("regarding.kind={kind},regarding.name={name},type=Warning");
        warnings.extend(events.list(&ListParams::default().fields(&fields).limit(EVENTS)).await?.items);
    }
    Ok(of(missing, claims, &warnings))
}

fn of(missing: usize, claims: &[PersistentVolumeClaim], warnings: &[Event]) -> Option<Trouble> {
    let claim = claims.iter().filter(|claim| is_pending(claim)).find_map(|claim| of_claim(claim, warnings));
    claim.or_else(|| newest(warnings, "StatefulSet", None).filter(|_| missing > 0).map(|why| refused(&why)))
}

/// A claim that waits for its pod's node is nothing special; one without a class, or with a warning, is.
fn of_claim(claim: &PersistentVolumeClaim, warnings: &[Event]) -> Option<Trouble> {
    let name = name(claim);
    let class =
        claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).filter(|class| !class.is_empty());
    let why = match (class, newest(warnings, "PersistentVolumeClaim", Some(&name))) {
        (Some(class), Some(warning)) if warning.contains("not found") => format!(
            "there is no StorageClass {class}: make it, or delete the broker and make it again with another storage.className"
        ),
        (Some(class), Some(warning)) => format!("StorageClass {class}: {warning}"),
        (None, _) => "storage.className names no StorageClass, and the cluster has no default one: make one the default, or make the broker again with a class".to_owned(),
        (Some(_), None) => return None,
    };
    Some(Trouble { message: format!("PersistentVolumeClaim {name} is Pending: {why}"), is_hopeless: true })
}

/// The note of the newest warning about an object of this kind.
fn newest(warnings: &[Event], kind: &str, name: Option<&str>) -> Option<String> {
    let about = |event: &&Event| {
        event.regarding.as_ref().is_some_and(|object| {
            object.kind.as_deref() == Some(kind) && name.is_none_or(|name| object.name.as_deref() == Some(name))
        })
    };
    warnings.iter().filter(about).max_by_key(|event| time(event)).and_then(|event| event.note.clone())
}

/// When it was last seen. (Most controllers write the older form.)
fn time(event: &Event) -> Option<jiff::Timestamp> {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let older = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    series.or(older).or_else(|| event.event_time.as_ref().map(|time| time.0))
}

fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().is_none_or(|status| status.phase.as_deref().is_none_or(|phase| phase == "Pending"))
}

fn name(claim: &PersistentVolumeClaim) -> String {
    claim.metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(class: Value, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "data-default-broker-0"}, "spec": {"storageClassName": class}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn warning(kind: &str, name: &str, second: &str, note: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e"}, "regarding": {"kind": kind, "name": name}, "type": "Warning", "note": note,
            "deprecatedLastTimestamp": format!("2026-01-31T12:00:{second}Z"), "eventTime": null,
        }))
        .unwrap()
    }

    #[test]
    fn a_claim_says_its_class_and_what_its_provisioner_says() {
        let name = "data-default-broker-0";
        let warnings = [
            warning("PersistentVolumeClaim", name, "02", "storageclass.storage.k8s.io \"fast\" not found"),
            warning("PersistentVolumeClaim", name, "01", "older"),
            warning("PersistentVolumeClaim", "data-other", "03", "another"),
        ];
        let found = of(0, &[claim(json!("fast"), "Pending")], &warnings).unwrap();
        assert_eq!(
            found.message,
            "PersistentVolumeClaim data-default-broker-0 is Pending: there is no StorageClass fast: make it, or delete the broker and make it again with another storage.className"
        );
        let full = [warning("PersistentVolumeClaim", name, "04", "no space in pool 1")];
        let found = of(0, &[claim(json!("fast"), "Pending")], &full).unwrap();
        assert!(found.message.ends_with("is Pending: StorageClass fast: no space in pool 1"), "{}", found.message);
        assert!(found.is_hopeless);
        let none = of(0, &[claim(json!(null), "Pending")], &[]).unwrap();
        assert!(none.message.contains("no default one") && none.is_hopeless, "{}", none.message);
        assert_eq!(of(0, &[claim(json!("fast"), "Pending")], &[]), None, "it waits for its pod's node");
        assert_eq!(of(0, &[claim(json!(null), "Bound")], &warnings), None);
    }

    #[test]
    fn what_refuses_the_pods_is_said_while_they_are_missing() {
        let quota = "create Pod default-broker-0 failed: exceeded quota: tight";
        let warnings = [warning("StatefulSet", "default-broker", "01", quota)];
        let found = of(1, &[], &warnings).unwrap();
        assert!(found.message.starts_with(quota) && found.message.contains("Raise that quota"), "{}", found.message);
        assert_eq!(of(0, &[], &warnings), None, "it was, and is no more");
    }
}
