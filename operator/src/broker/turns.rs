//! One pod of a broker ends at a time, whoever tells it to: a restart for another configuration, a topic whose stream stores
//! nothing, a change of its servers.
//!
//! Whoever decides does it by the pods that it sees, and that may be a moment before the last pod that was told to end is
//! seen to: so it is remembered which one that was.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::time::Instant;

use crate::sessions::brokers::BrokerKey;

/// A pod that is not seen to end for so long was not told to.
const TURN: Duration = Duration::from_secs(30);

/// The pods that were told to end and are perhaps not seen to end yet, one of each broker.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<BrokerKey, Turn>>);

#[derive(Debug)]
struct Turn {
    uid: Option<String>,
    taken: Instant,
}

impl Turn {
    fn lasts(&self, pods: &[Pod]) -> bool {
        let is_alive = |pod: &Pod| pod.uid() == self.uid && pod.metadata.deletion_timestamp.is_none();
        self.taken.elapsed() < TURN && pods.iter().any(is_alive)
    }
}

impl Turns {
    /// Takes a broker's turn to tell this pod to end, unless another one was told to that is not seen to end yet. `pods`: those
    /// by which the caller has decided.
    pub(crate) fn take(&self, broker: &BrokerKey, pod: &Pod, pods: &[Pod]) -> bool {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.taken.elapsed() < TURN);
        if turns.get(broker).is_some_and(|turn| turn.lasts(pods)) {
            return false;
        }
        turns.insert(broker.clone(), Turn { uid: pod.uid(), taken: Instant::now() });
        true
    }

    /// Whether no pod was told to end that is alive as the caller sees it.
    pub(crate) fn is_free(&self, broker: &BrokerKey, pods: &[Pod]) -> bool {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(broker).is_none_or(|turn| !turn.lasts(pods))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, is_ending: bool) -> Pod {
        let ending = is_ending.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "deletionTimestamp": ending}})).unwrap()
    }

    #[test]
    fn a_pod_has_its_turn_until_it_is_seen_to_end() {
        let (turns, key) = (Turns::default(), BrokerKey { namespace: "shop".into(), name: "default".into() });
        let pods = [pod("b-0", false), pod("b-1", false), pod("b-2", false)];
        assert!(turns.is_free(&key, &pods) && turns.take(&key, &pods[0], &pods));
        assert!(!turns.take(&key, &pods[1], &pods), "before the first one is seen to end");
        assert!(!turns.is_free(&key, &pods));
        let other = BrokerKey { name: "other".into(), ..key.clone() };
        assert!(turns.take(&other, &pods[0], &pods));
        // Whoever sees that one ends, or another in its place, judges by that.
        let later = [pod("b-0", true), pod("b-1", false)];
        assert!(turns.is_free(&key, &later) && turns.is_free(&key, &later[1..]));
        assert!(turns.take(&key, &later[1], &later));
        assert!(!turns.is_free(&key, &pods));
    }
}
