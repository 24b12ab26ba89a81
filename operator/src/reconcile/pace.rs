//! Paces the rollouts that no change of a specification asks for: those of a new version of Tidegate, of its
//! configuration, of certificates.
//!
//! A change that a broker's or handler's own specification makes rolls out at once. Another one waits for its turn, so
//! that an upgrade of the chart does not restart every broker and every handler of the cluster at the same time. Which
//! are rolling out is seen in the cluster, so another operator continues where one has ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::broker::restart;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names::{BROKER_LABEL, HANDLER_LABEL, ROLLS_WITH_ANNOTATION};
use crate::kubernetes::pods::is_ready;
use crate::kubernetes::watches::Stores;

/// Brokers that restart at the same time.
const BROKERS: usize = 2;
/// Handlers whose pods are replaced at the same time.
const HANDLERS: usize = 10;
/// Between a turn's begin, or its use, and the moment in which the rollout shows.
const GRACE: Duration = Duration::from_secs(5);
/// A rollout that is stuck (an image that cannot be pulled) keeps the others back for so long.
const MAX_TURN: Duration = Duration::from_secs(600);
/// Carries the hash of the pod template as it was applied.
const TEMPLATE: &str = "tidegate.io/template";
/// Carries the generation of the broker or handler that it was applied for.
const GENERATION: &str = "tidegate.io/generation";

/// Namespace and name.
pub type Key = (String, String);

/// Whose turn it is, of one kind.
pub struct Turns {
    /// Of what, in the plural.
    what: &'static str,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: HashMap<Key, Turn>,
    waiting: VecDeque<Key>,
}

/// One's turn.
struct Turn {
    begun: Instant,
    /// When it was used last: what is written then shows later.
    used: Instant,
}

impl Turn {
    fn new(now: Instant) -> Self {
        Self { begun: now, used: now }
    }
}

/// Whose turn it is.
pub struct Pace {
    /// Of brokers.
    pub brokers: Turns,
    /// Of handlers.
    pub handlers: Turns,
}

impl Default for Pace {
    fn default() -> Self {
        Self { brokers: Turns::new("brokers", BROKERS), handlers: Turns::new("handlers", HANDLERS) }
    }
}

impl Turns {
    fn new(what: &'static str, limit: usize) -> Self {
        Self { what, limit, state: Mutex::default() }
    }

    /// For people: what one that has not had its turn waits for.
    pub fn explain_wait(&self) -> String {
        format!(
            "this version of Tidegate makes other pods than those that run. They are replaced when it is their turn ({} {} at a time); until then they work as before",
            self.limit, self.what
        )
    }

    /// Whether this one has its turn, to use it now. If not, it is in the queue from now on.
    pub fn has(&self, key: &Key, now: Instant) -> bool {
        let mut state = self.lock();
        if let Some(turn) = state.begun.get_mut(key) {
            turn.used = now;
            return true;
        }
        if !state.waiting.contains(key) {
            state.waiting.push_back(key.clone());
        }
        false
    }

    /// Given those that are rolling out, gives turns to those that wait and returns them.
    pub fn next(&self, rolling: &HashSet<Key>, now: Instant) -> Vec<Key> {
        let mut state = self.lock();
        for key in rolling {
            state.begun.entry(key.clone()).or_insert_with(|| Turn::new(now));
        }
        state.begun.retain(|key, turn| rolling.contains(key) || now.saturating_duration_since(turn.used) < GRACE);
        let busy = state.begun.values().filter(|turn| now.saturating_duration_since(turn.begun) < MAX_TURN).count();
        let free = self.limit.saturating_sub(busy).min(state.waiting.len());
        let next: Vec<Key> = state.waiting.drain(..free).collect();
        state.begun.extend(next.iter().map(|key| (key.clone(), Turn::new(now))));
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a child with its template and with the generation that it is made from. A template that says itself with what
/// its pods are replaced is marked with that.
pub fn stamp(child: &mut Child, generation: Option<i64>) {
    let template = &child.value["spec"]["template"];
    let hash = || {
        let hash = Sha256::digest(template.to_string());
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    };
    let said = template["metadata"]["annotations"][ROLLS_WITH_ANNOTATION].as_str();
    let template = said.map_or_else(hash, str::to_owned);
    child.value["metadata"]["annotations"][TEMPLATE] = json!(template);
    child.value["metadata"]["annotations"][GENERATION] = json!(generation.unwrap_or_default().to_string());
}

/// Whether applying the child would replace pods without the specification of its broker or handler having changed.
pub fn is_unasked<K: kube::Resource>(existing: &K, child: &Child) -> bool {
    let annotation =
        |name: &str| existing.meta().annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let wanted = |name: &str| child.value["metadata"]["annotations"].get(name).and_then(Value::as_str);
    let is_asked = annotation(GENERATION).is_some_and(|generation| Some(generation) != wanted(GENERATION));
    annotation(TEMPLATE) != wanted(TEMPLATE) && !is_asked
}

/// The brokers whose pods are being replaced.
pub(crate) fn rolling_brokers(stores: &Stores) -> HashSet<Key> {
    let mut pods: HashMap<Key, Vec<Arc<Pod>>> = HashMap::new();
    for pod in stores.broker_pods.state() {
        if let Some(key) = key(pod.as_ref(), BROKER_LABEL) {
            pods.entry(key).or_default().push(pod);
        }
    }
    let replacing = |set: Arc<StatefulSet>| {
        let key = key(set.as_ref(), BROKER_LABEL)?;
        let pods = pods.get(&key).map(Vec::as_slice).unwrap_or_default();
        is_replacing_brokers(&set, pods).then_some(key)
    };
    stores.statefulsets.state().into_iter().filter_map(replacing).collect()
}

/// The handlers whose pods are being replaced.
pub(crate) fn rolling_handlers(stores: &Stores) -> HashSet<Key> {
    let rolling = stores.deployments.state_filter(is_replacing_pods);
    rolling.iter().filter_map(|deployment| key(deployment.as_ref(), HANDLER_LABEL)).collect()
}

fn key<K: kube::Resource>(object: &K, label: &str) -> Option<Key> {
    Some((object.meta().namespace.clone()?, object.labels().get(label)?.clone()))
}

/// Until all pods are made for what is wanted now, and ready. (A pod that is being restarted is gone for a moment.)
fn is_replacing_brokers(set: &StatefulSet, pods: &[Arc<Pod>]) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let is_done = |pod: &&Arc<Pod>| is_ready(pod) && !restart::is_outdated(pod, set);
    i32::try_from(pods.iter().filter(is_done).count()).is_ok_and(|done| done < wanted)
}

/// Pods of an older template are there until those of the new one are available.
fn is_replacing_pods(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let old = status.replicas.unwrap_or(0) > status.updated_replicas.unwrap_or(0);
    old || status.observed_generation.is_some() && status.observed_generation != deployment.metadata.generation
}

#[cfg(test)]
mod tests {
    use kube::api::ApiResource;

    use super::*;

    fn key(name: &str) -> Key {
        ("n".into(), name.into())
    }

    fn keys(names: &[&str]) -> HashSet<Key> {
        names.iter().map(|name| key(name)).collect()
    }

    #[test]
    fn as_many_as_may_have_their_turn_and_the_next_when_one_is_done() {
        let (turns, begin) = (Turns::new("brokers", 2), Instant::now());
        for name in ["a", "b", "c", "d"] {
            assert!(!turns.has(&key(name), begin) && !turns.has(&key(name), begin));
        }
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(turns.next(&keys(&[]), begin), [key("a"), key("b")]);
        assert!(turns.has(&key("a"), begin) && !turns.has(&key("c"), begin));
        assert_eq!(turns.next(&keys(&[]), after(1)), [], "what has begun may not show yet");
        assert_eq!(turns.next(&keys(&["a", "b"]), after(60)), []);
        assert_eq!(turns.next(&keys(&["b"]), after(61)), [key("c")]);
        assert!(!turns.has(&key("a"), after(61)), "what changes after its turn waits for another one");
        // Two that are stuck do not stop the rest for ever.
        assert_eq!(turns.next(&keys(&["b", "c"]), after(590)), []);
        assert_eq!(turns.next(&keys(&["b", "c"]), after(601)), [key("d")]);
    }

    /// A reconcile may come to it late, and the watch tells of it later still.
    #[test]
    fn a_turn_that_was_used_is_not_given_to_another_before_it_can_show() {
        let (turns, begin) = (Turns::new("handlers", 1), Instant::now());
        for name in ["a", "b"] {
            turns.has(&key(name), begin);
        }
        assert_eq!(turns.next(&keys(&[]), begin), [key("a")]);
        let late = begin + GRACE - Duration::from_millis(100);
        assert!(turns.has(&key("a"), late));
        assert_eq!(turns.next(&keys(&[]), begin + GRACE), [], "it has begun a moment ago");
        assert_eq!(turns.next(&keys(&["a"]), begin + GRACE * 2), []);
        assert_eq!(turns.next(&keys(&[]), begin + GRACE * 3), [key("b")]);
        // What is not used is lost.
        assert_eq!(turns.next(&keys(&[]), begin + GRACE * 4), []);
        assert!(!turns.has(&key("b"), begin + GRACE * 4));
    }

    #[test]
    fn another_operator_counts_what_is_rolling_out_already() {
        let turns = Turns::new("brokers", 2);
        let begin = Instant::now();
        turns.has(&key("c"), begin);
        assert_eq!(turns.next(&keys(&["a", "b"]), begin), []);
        assert_eq!(turns.next(&keys(&["a"]), begin + GRACE), [key("c")]);
    }

    #[test]
    fn what_the_own_specification_changes_waits_for_nobody() {
        let child = |image: &str, generation| {
            let value = json!({"metadata": {"name": "x"}, "spec": {"template": {"image": image}}});
            let mut child = Child {
                resource: ApiResource::erase::<StatefulSet>(&()),
                name: "x".into(),
                namespace: None,
                value,
                adopts: false,
                replaces: None,
            };
            stamp(&mut child, Some(generation));
            child
        };
        let existing = |child: &Child| -> StatefulSet {
            serde_json::from_value(json!({"metadata": child.value["metadata"]})).unwrap()
        };
        let first = existing(&child("1", 1));
        assert!(!is_unasked(&first, &child("1", 1)));
        assert!(!is_unasked(&first, &child("1", 2)), "no pod is replaced");
        assert!(!is_unasked(&first, &child("2", 2)), "the specification changed");
        assert!(is_unasked(&first, &child("2", 1)), "a new version of Tidegate");
        assert!(is_unasked(&StatefulSet::default(), &child("1", 1)), "made by a version that did not mark it");
    }
}
