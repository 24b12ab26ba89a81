//! How many servers a broker has now: the operator's own record, an annotation of the StatefulSet (pure).
//!
//! It is written before what it says is done, so that another operator continues where one has ended. The specification
//! says how many there are to be in the end ([`crate::broker::members`]).

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use tidegate_broker_admin::membership::MAX_SERVERS;
use tidegate_crds::EventBroker;

use crate::kubernetes::names;
use crate::kubernetes::watches::{Stores, get};
use crate::sessions::brokers::BrokerKey;

/// How many servers a broker has now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scale {
    /// Servers that run, or are to.
    pub pods: i32,
    /// Servers to which the configuration has routes.
    pub routes: i32,
    /// Copies that a new stream gets: while there come to be more servers or fewer, the smaller number.
    pub copies: i32,
    /// What the servers were seen to have reached last ([`Goal`]). `None`: they are on the way there, and only the change
    /// itself says how many copies a stream has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Goal>,
}

/// The hash of a number of servers and of their configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Goal(pub String);

impl Scale {
    /// Of a broker that begins with so many servers.
    pub fn new(servers: i32) -> Self {
        Self { pods: servers, routes: servers, copies: servers, reached: None }
    }

    /// What the record on its StatefulSet says. Where somebody took that away: as many as there were last.
    pub fn of(set: Option<&StatefulSet>, broker: &EventBroker) -> Self {
        set.and_then(Self::recorded).unwrap_or_else(|| {
            let shown = broker.status.as_ref().map(|status| status.replicas);
            let known = set.and_then(running).or(shown.filter(|servers| is_possible(*servers)));
            Self::new(known.unwrap_or(broker.spec.replicas))
        })
    }

    /// What the record on a StatefulSet says; `None`: somebody took it away. Where the StatefulSet has more pods than the
    /// record says (somebody edited one of them): so many, for they may be members, and only the change itself takes
    /// members away.
    pub fn recorded(set: &StatefulSet) -> Option<Self> {
        let record: Self = serde_json::from_str(set.annotations().get(names::SERVERS_ANNOTATION)?).ok()?;
        let record = Some(record).filter(Self::is_sane)?;
        Some(match running(set).filter(|running| *running > record.pods) {
            Some(pods) => Self { pods, reached: None, ..record },
            None => record,
        })
    }

    /// The same of a broker as it was seen last.
    pub fn current(stores: &Stores, key: &BrokerKey, broker: &EventBroker) -> Self {
        let set = get(&stores.statefulsets, &key.namespace, &names::broker(&key.name));
        Self::of(set.as_deref(), broker)
    }

    /// The record.
    pub fn annotation(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether only the change under way says how many copies a stream has.
    pub fn is_changing(&self) -> bool {
        self.reached.is_none()
    }

    /// Servers without which events are not stored.
    pub fn majority(&self) -> i32 {
        self.copies / 2 + 1
    }

    /// Servers, the first ones, that have copies of streams on the way to so many, or are to: those after them are joining.
    pub fn holders(&self, wanted: i32) -> i32 {
        if wanted > self.copies { self.copies } else { self.pods }
    }

    /// Copies for which an account has room: those that its streams may have on the way to so many servers.
    pub fn quota(&self, wanted: i32) -> u64 {
        u64::from(self.pods.max(wanted).unsigned_abs())
    }

    /// The same, on the way to so many servers from here.
    #[must_use]
    pub fn begun(&self, wanted: i32) -> Self {
        Self { copies: self.copies.min(wanted), reached: None, ..self.clone() }
    }

    /// The same, when there are as many as there are to be.
    #[must_use]
    pub fn ended(&self, wanted: i32, goal: Goal) -> Self {
        Self { copies: wanted, reached: Some(goal), ..self.clone() }
    }

    fn is_sane(&self) -> bool {
        [self.pods, self.routes, self.copies].into_iter().all(is_possible)
    }
}

/// The pods of a StatefulSet.
fn running(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.replicas.filter(|servers| is_possible(*servers))
}

fn is_possible(servers: i32) -> bool {
    usize::try_from(servers).is_ok_and(|servers| (1..=MAX_SERVERS).contains(&servers))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broker(replicas: i32, shown: i32) -> EventBroker {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": "default"},
            "spec": {"replicas": replicas}, "status": {"replicas": shown},
        }))
        .unwrap()
    }

    fn set(record: Option<&str>, replicas: i32) -> StatefulSet {
        let annotations = record.map(|record| json!({names::SERVERS_ANNOTATION: record}));
        serde_json::from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"replicas": replicas, "serviceName": "s", "selector": {}, "template": {}},
        }))
        .unwrap()
    }

    #[test]
    fn the_record_counts_and_without_it_what_there_was_last() {
        let record = Scale { routes: 3, ..Scale::new(1) };
        assert_eq!(Scale::of(Some(&set(Some(&record.annotation()), 1)), &broker(3, 3)), record);
        let ended = record.ended(1, Goal("g".into()));
        for (replicas, expected) in [(1, ended.clone()), (3, Scale { pods: 3, reached: None, ..ended.clone() })] {
            assert_eq!(Scale::of(Some(&set(Some(&ended.annotation()), replicas)), &broker(3, 3)), expected);
        }
        for (set, shown, pods) in [
            (Some(set(None, 1)), 3, 1),
            (Some(set(Some("{"), 1)), 3, 1),
            (Some(set(Some(r#"{"pods":900,"routes":1,"copies":1}"#), 3)), 1, 3),
            (None, 1, 1),
            (None, 0, 5),
        ] {
            assert_eq!(Scale::of(set.as_ref(), &broker(5, shown)), Scale::new(pods));
        }
    }

    #[test]
    fn new_streams_get_copies_that_there_are_on_the_whole_way() {
        let goal = || Goal("g".into());
        let one = Scale::new(1).ended(1, goal());
        let growing = Scale { pods: 3, routes: 3, ..one.begun(3) };
        assert!(growing.is_changing() && growing.copies == 1 && growing.majority() == 1);
        assert_eq!((growing.quota(3), growing.holders(3)), (3, 1));
        assert_eq!(growing.begun(5).copies, 1, "a change of mind");
        let three = growing.ended(3, goal());
        assert_eq!((three.copies, three.majority(), three.is_changing()), (3, 2, false));
        let shrinking = three.begun(1);
        assert_eq!((shrinking.copies, shrinking.quota(1)), (1, 3), "they have three until they have one");
        assert_eq!((shrinking.holders(1), three.holders(3)), (3, 3));
    }
}
