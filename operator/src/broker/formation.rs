//! Whether the servers of a broker have become a cluster, which a single one is too.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tidegate_broker_admin::membership::{self, Site};
use tidegate_crds::conditions::{Finding, Status, kind};

use super::Observed;
use crate::broker::restart;
use crate::context::{Context, Owner};
use crate::kubernetes::names;
use crate::kubernetes::pods::is_ready;
use crate::reconcile::error::Error;
use crate::sessions::brokers::Place;

/// Whether it is worth to ask the servers: each has its pod, which says that it serves its streams.
pub(super) fn is_due(pods: &[Pod], replicas: i32) -> bool {
    i32::try_from(pods.iter().filter(|pod| is_ready(pod)).count()).is_ok_and(|ready| ready >= replicas)
}

/// Whether all servers say that they are one cluster of as many, and who leads it. What cannot be asked has not.
pub(super) async fn has_formed(context: &Context, place: &Place, pods: &[Pod]) -> bool {
    if !is_due(pods, place.pods) {
        return false;
    }
    observed(context, place).await.is_some_and(|(observed, site)| observed.is_whole(&site))
}

/// Whether the only server of a broker that has formed waits for others, as one does that has never run: what it had is
/// gone.
pub(super) async fn has_lost_volume(context: &Context, place: &Place, pods: &[Pod]) -> bool {
    if place.pods != 1 || pods.is_empty() || is_due(pods, place.pods) {
        return false;
    }
    let Some((observed, _)) = observed(context, place).await else { return false };
    let cluster = observed.servers.values().find_map(|server| server.cluster.as_ref());
    cluster.is_some_and(|cluster| cluster.leader.is_none() && cluster.size > 1)
}

async fn observed(context: &Context, place: &Place) -> Option<(membership::Observed, Site)> {
    let servers = context.brokers.servers(place).await.ok()?;
    let site = restart::site(place);
    match membership::observe(servers.system_client(), &site).await {
        Ok(observed) => Some((observed, site)),
        Err(error) => {
            tracing::debug!(broker = place.broker.name, namespace = place.broker.namespace, %error, "not observed");
            None
        }
    }
}

/// The condition of a broker whose only server has lost its volume.
pub(super) fn volume_lost(owner: &Owner) -> Finding {
    let (name, pod) = (&owner.name, format!("{}-0", names::broker(&owner.name)));
    let message = format!(
        "pod {pod} has an empty volume, and this broker has stored events before: it does not begin again by itself. Put the volume back under PersistentVolumeClaim data-{pod} and delete the pod; or, to begin without the events (as a cluster administrator): kubectl patch eventbroker {name} --subresource status --type merge -p '{{\"status\":{{\"formed\":false}}}}', and delete PersistentVolumeClaim data-{pod} and the pod"
    );
    Finding::new(kind::BROKER_AVAILABLE, Status::False, "VolumeLost", message).stalled()
}

/// Says in the conditions that this is still to come. Topics work meanwhile.
pub(super) fn explain(found: &mut [Finding]) {
    let reconciling = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING && !finding.is_true());
    if let Some(reconciling) = reconciling {
        let message = "waiting for the servers to say that they are one cluster, and who leads it: if that lasts for more than a minute, look at the broker's pods";
        *reconciling = Finding::new(kind::RECONCILING, Status::True, "Forming", message);
    }
}

/// Says in the conditions why another number of servers is not begun with: before all servers of a new broker have run once
/// there is no cluster that one could join or leave.
pub(super) fn explain_other_number(found: &mut [Finding], pods: i32, wanted: i32) {
    let reconciling = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING);
    if let Some(reconciling) = reconciling {
        let message = format!(
            "{wanted} server(s) are wanted, and the broker has never run with the {pods} that it was made with: all of them must run once before there can be more or fewer. BrokerAvailable says what keeps them. Or delete this EventBroker and make it again with {wanted}: it has stored nothing yet"
        );
        *reconciling = Finding::new(kind::RECONCILING, Status::True, "NotFormed", message);
    }
}

/// A single server of an earlier version was no member of a cluster. As one it would delete its streams, without a word.
///
/// # Errors
/// This is such a broker. It is left as it is.
pub(super) fn check_version(observed: &Observed, owner: &Owner) -> Result<(), Error> {
    let is_single = |set: &&StatefulSet| set.spec.as_ref().is_none_or(|spec| spec.replicas.unwrap_or(1) == 1);
    let Some(set) = observed.statefulset.as_ref().filter(is_single) else { return Ok(()) };
    if set.annotations().contains_key(names::CLUSTER_ANNOTATION) {
        return Ok(());
    }
    Err(Error::refused(
        "MadeByEarlierVersion",
        format!(
            "an earlier version of Tidegate made StatefulSet {} with a server that is no member of a cluster, and as one it would lose its streams. Its topics work on, and this version changes nothing of it. To move: make another EventBroker, and on it topics with handlers of their own; publish to those, wait until the old handlers have no lag, and delete them, their topics and this broker. To begin without the stored events: delete this broker's topics and then the broker",
            names::broker(&owner.name)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSetSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    #[test]
    fn a_new_broker_that_was_given_another_number_too_early_says_so() {
        let waiting = Finding::new(kind::BROKER_AVAILABLE, Status::False, "Unschedulable", "pod b-2: no node");
        let mut found = crate::reconcile::status::summary(vec![waiting], "ready");
        explain_other_number(&mut found, 3, 1);
        let reconciling = found.iter().find(|finding| finding.kind == kind::RECONCILING).unwrap();
        assert!(reconciling.is_true() && reconciling.reason == "NotFormed", "{reconciling:?}");
        assert!(reconciling.message.starts_with("1 server(s) are wanted"), "{}", reconciling.message);
    }

    #[test]
    fn a_single_server_without_a_cluster_is_left_alone() {
        let owner = Owner { name: "orders".into(), namespace: "shop".into(), reference: OwnerReference::default() };
        let mut set = StatefulSet::default();
        let seen = |set: &StatefulSet| Observed { statefulset: Some(set.clone()), ..Observed::default() };
        let error = check_version(&seen(&set), &owner).unwrap_err();
        assert_eq!(error.reason(), "MadeByEarlierVersion");
        assert!(error.to_string().contains("StatefulSet orders-broker"), "{error}");
        let three =
            StatefulSet { spec: Some(StatefulSetSpec { replicas: Some(3), ..Default::default() }), ..set.clone() };
        assert!(check_version(&seen(&three), &owner).is_ok(), "three were a cluster");
        assert!(check_version(&Observed::default(), &owner).is_ok(), "there is none yet");
        set.metadata.annotations = Some([(names::CLUSTER_ANNOTATION.to_owned(), "true".to_owned())].into());
        assert!(check_version(&seen(&set), &owner).is_ok());
    }
}
