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
use crate::kubernetes::names::{self, BROKER_LABEL, HANDLER_LABEL, ROLLS_WITH_ANNOTATION};
use crate::kubernetes::pods::is_ready;
use crate::kubernetes::watches::{Stores, get};

/// Brokers that restart at the same time.
const BROKERS: usize = 2;
/// Handlers whose pods are replaced at the same time.
const HANDLERS: usize = 10;
/// A turn that is not used for so long goes to another. Far longer than a reconcile waits for its slot: one that always came
/// too late for its turn would never have one.
const GRACE: Duration = Duration::from_secs(60);
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
    held: Held,
}

/// What keeps a turn besides the rollout that is seen. What was written is seen later, and no one can tell how much later: so
/// it is kept by facts, not by a guess of that time.
enum Held {
    /// It can be used, since then.
    Unused(Instant),
    /// A reconcile is using it.
    InUse,
    /// It was used: from this generation of its workload on, the workload shows whether it is rolling out.
    Wrote(i64),
}

impl Turn {
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) < MAX_TURN
    }

    /// `seen` is the generation of the workload, if there is one.
    fn is_held(&self, seen: impl FnOnce() -> Option<i64>, now: Instant) -> bool {
        match self.held {
            Held::Unused(since) => now.saturating_duration_since(since) < GRACE && seen().is_some(),
            Held::InUse => true,
            Held::Wrote(generation) => self.is_young(now) && seen().is_some_and(|seen| seen < generation),
        }
    }
}

/// A turn that is being used.
pub struct Use<'a> {
    turns: &'a Turns,
    key: Key,
    wrote: Option<i64>,
}

impl Use<'_> {
    /// The workload has this generation now.
    pub fn wrote(mut self, generation: Option<i64>) {
        self.wrote = generation;
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        match self.wrote {
            // Its next reconcile is behind those that wait: one that always fails delays no other.
            None => drop(state.begun.remove(&self.key)),
            Some(generation) => {
                if let Some(turn) = state.begun.get_mut(&self.key) {
                    turn.held = Held::Wrote(generation);
                }
            }
        }
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

    /// The turn of this one, if it has it, to use it now. If not, it is in the queue from now on.
    pub fn take(&self, key: &Key) -> Option<Use<'_>> {
        let mut state = self.lock();
        if let Some(turn) = state.begun.get_mut(key) {
            turn.held = Held::InUse;
            return Some(Use { turns: self, key: key.clone(), wrote: None });
        }
        if !state.waiting.contains(key) {
            state.waiting.push_back(key.clone());
        }
        None
    }

    /// Given those that are rolling out, and the generation of each one's workload as it is seen, gives turns to those that
    /// wait and returns them.
    pub fn next(&self, rolling: &HashSet<Key>, seen: impl Fn(&Key) -> Option<i64>, now: Instant) -> Vec<Key> {
        let mut state = self.lock();
        for key in rolling {
            // What is seen keeps it, and nothing else.
            state.begun.entry(key.clone()).or_insert(Turn { begun: now, held: Held::Wrote(0) });
        }
        state.begun.retain(|key, turn| rolling.contains(key) || turn.is_held(|| seen(key), now));
        // What is gone is not waited for.
        state.waiting.retain(|key| seen(key).is_some());
        let busy = state.begun.values().filter(|turn| turn.is_young(now)).count();
        let free = self.limit.saturating_sub(busy).min(state.waiting.len());
        let next: Vec<Key> = state.waiting.drain(..free).collect();
        state.begun.extend(next.iter().map(|key| (key.clone(), Turn { begun: now, held: Held::Unused(now) })));
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

/// The generation of a broker's StatefulSet, as the watch has shown it.
pub(crate) fn generation_of_broker(stores: &Stores, (namespace, name): &Key) -> Option<i64> {
    get(&stores.statefulsets, namespace, &names::broker(name))?.metadata.generation
}

/// The generation of a handler's Deployment, as the watch has shown it.
pub(crate) fn generation_of_handler(stores: &Stores, (namespace, name): &Key) -> Option<i64> {
    get(&stores.deployments, namespace, &names::handler(name))?.metadata.generation
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

    /// The workloads of all are at the generation that was written.
    fn seen(_: &Key) -> Option<i64> {
        Some(1)
    }

    fn use_turn(turns: &Turns, name: &str) -> bool {
        turns.take(&key(name)).map(|turn| turn.wrote(Some(1))).is_some()
    }

    #[test]
    fn as_many_as_may_have_their_turn_and_the_next_when_one_is_done() {
        let (turns, begin) = (Turns::new("brokers", 2), Instant::now());
        for name in ["a", "b", "c", "d"] {
            assert!(!use_turn(&turns, name) && !use_turn(&turns, name));
        }
        let after = |seconds| begin + Duration::from_secs(seconds);
        let next = |rolling: &[&str], now| turns.next(&keys(rolling), seen, now);
        assert_eq!(next(&[], begin), [key("a"), key("b")]);
        assert_eq!(next(&[], after(1)), [], "what has begun may not show yet");
        assert!(use_turn(&turns, "a") && use_turn(&turns, "b") && !use_turn(&turns, "c"));
        assert_eq!(next(&["a", "b"], after(60)), []);
        assert_eq!(next(&["b"], after(61)), [key("c")]);
        assert!(!use_turn(&turns, "a"), "what changes after its turn waits for another one");
        // Two that are stuck do not stop the rest for ever.
        assert_eq!(next(&["b", "c"], after(590)), []);
        assert_eq!(next(&["b", "c"], after(601)), [key("d")]);
    }

    /// Reconciles and watches are as slow as the machine and the API server make them.
    #[test]
    fn a_turn_that_was_used_is_not_given_to_another_before_it_can_show() {
        let (turns, begin) = (Turns::new("handlers", 1), Instant::now());
        for name in ["a", "b"] {
            assert!(turns.take(&key(name)).is_none());
        }
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(turns.next(&keys(&[]), seen, begin), [key("a")]);
        let used = turns.take(&key("a")).unwrap();
        assert_eq!(turns.next(&keys(&[]), seen, after(60)), [], "it is being used");
        used.wrote(Some(2));
        assert_eq!(turns.next(&keys(&[]), seen, after(120)), [], "what was written is not seen");
        let written = |_: &Key| Some(2);
        assert_eq!(turns.next(&keys(&["a"]), written, after(121)), []);
        assert_eq!(turns.next(&keys(&[]), written, after(122)), [key("b")]);
        // What is not used is lost, and what is gone holds nobody up.
        let lost = after(122) + GRACE;
        assert_eq!(turns.next(&keys(&[]), written, lost), []);
        assert!(turns.take(&key("b")).is_none());
        assert_eq!(turns.next(&keys(&[]), written, lost), [key("b")]);
        turns.take(&key("b")).unwrap().wrote(Some(9));
        assert!(turns.take(&key("c")).is_none());
        let only_c = |it: &Key| (*it == key("c")).then_some(1);
        assert_eq!(turns.next(&keys(&[]), only_c, lost), [key("c")]);
    }

    #[test]
    fn a_turn_whose_use_failed_goes_to_the_next() {
        let (turns, now) = (Turns::new("handlers", 1), Instant::now());
        for name in ["a", "b"] {
            assert!(turns.take(&key(name)).is_none());
        }
        assert_eq!(turns.next(&keys(&[]), seen, now), [key("a")]);
        drop(turns.take(&key("a")).unwrap());
        assert!(!use_turn(&turns, "a"));
        assert_eq!(turns.next(&keys(&[]), seen, now), [key("b")]);
    }

    #[test]
    fn what_is_gone_keeps_nobody_waiting() {
        let (turns, now) = (Turns::new("handlers", 1), Instant::now());
        for name in ["a", "b", "c"] {
            assert!(turns.take(&key(name)).is_none());
        }
        assert_eq!(turns.next(&keys(&[]), seen, now), [key("a")]);
        let only_c = |it: &Key| (*it == key("c")).then_some(1);
        assert_eq!(turns.next(&keys(&[]), only_c, now), [key("c")]);
    }

    #[test]
    fn another_operator_counts_what_is_rolling_out_already() {
        let turns = Turns::new("brokers", 2);
        let begin = Instant::now();
        assert!(turns.take(&key("c")).is_none());
        assert_eq!(turns.next(&keys(&["a", "b"]), seen, begin), []);
        assert_eq!(turns.next(&keys(&["a"]), seen, begin), [key("c")]);
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
