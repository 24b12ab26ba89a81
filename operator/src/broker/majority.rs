//! Whether the servers of a broker, which answer and are ready, can still decide something together: their cluster has a
//! leader only while more than half of its members run. Ready pods do not show that: members may be gone for good.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tidegate_broker_admin::membership::{self, Cluster, Ordinal, Site};
use tidegate_crds::EventBroker;
use tidegate_crds::conditions::{Finding, Status, kind};
use tokio::time::sleep;

use super::{formation, restart};
use crate::context::Context;
use crate::sessions::brokers::Place;

/// The reason of a broker whose servers have no leader.
const NO_MAJORITY: &str = "NoMajority";
/// An election takes nine seconds at most.
const ELECTION: Duration = Duration::from_secs(12);

/// What the condition `BrokerAvailable` says where the servers answer and none leads them, for longer than an election takes;
/// `None`: one does, or that is not known.
pub(super) async fn lacking(context: &Context, broker: &EventBroker, place: &Place, pods: &[Pod]) -> Option<Finding> {
    // Where fewer are ready the pods are what is to be said.
    if !formation::is_due(pods, place.voters / 2 + 1) {
        return None;
    }
    let site = restart::site(place);
    let found = finding(&site, &clusters(context, place, &site).await?)?;
    let conditions = broker.status.iter().flat_map(|status| &status.conditions);
    if conditions.into_iter().any(|known| known.type_ == kind::BROKER_AVAILABLE && known.reason == NO_MAJORITY) {
        return Some(found);
    }
    sleep(ELECTION).await;
    finding(&site, &clusters(context, place, &site).await?)
}

async fn clusters(context: &Context, place: &Place, site: &Site) -> Option<BTreeMap<Ordinal, Cluster>> {
    let servers = context.brokers.servers(place).await.ok()?;
    membership::clusters(servers.system_client(), site).await.ok()
}

fn finding(site: &Site, clusters: &BTreeMap<Ordinal, Cluster>) -> Option<Finding> {
    let size = clusters.values().map(|cluster| cluster.size).max()?;
    if clusters.values().any(|cluster| cluster.leader.is_some()) {
        return None;
    }
    let named = |ordinals: &mut dyn Iterator<Item = Ordinal>| -> String {
        ordinals.filter_map(|ordinal| site.names.get(ordinal)).map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let answer = named(&mut clusters.keys().copied());
    let silent = named(&mut (0..site.pods).filter(|ordinal| !clusters.contains_key(ordinal)));
    let waits = if silent.is_empty() {
        "None of the present pods is missing: a server that was a member is gone, or they do not reach each other's port 6222".to_owned()
    } else {
        format!("Waiting for {silent}: bring back these pods, with their volumes")
    };
    let message = format!(
        "no server leads the cluster: of its {size} members {} answer ({answer}), and more than half must run and reach each other. Topics and handlers cannot be made or changed, and streams of several copies may take nothing. {waits}. docs/operations.md, A majority that is lost, says what can be done if a volume is gone for good",
        clusters.len()
    );
    Some(Finding::new(kind::BROKER_AVAILABLE, Status::False, NO_MAJORITY, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_without_a_leader_say_who_is_waited_for() {
        let site = Site { names: ["b-0", "b-1", "b-2"].map(str::to_owned).into(), pods: 3, ..Site::default() };
        let cluster = |leader| Cluster { leader, size: 3, ..Cluster::default() };
        let found = |leaders: &[Option<Ordinal>]| {
            finding(&site, &leaders.iter().map(|leader| cluster(*leader)).enumerate().collect())
        };
        assert_eq!(found(&[None, Some(0), None]), None, "one of them knows of a leader");
        assert_eq!(found(&[]), None, "nothing is known");
        let alone = found(&[None]).unwrap();
        assert_eq!((alone.status, alone.reason.as_str()), (Status::False, "NoMajority"));
        assert!(alone.message.contains("of its 3 members 1 answer (b-0)"), "{}", alone.message);
        assert!(alone.message.contains("Waiting for b-1, b-2: bring back"), "{}", alone.message);
        assert!(found(&[None; 3]).unwrap().message.contains("port 6222"));
    }
}
