//! A broker that answers, and does not store: its disk is full, or was. NATS does not recover from that by itself, also
//! when there is room again; a restart of the pod does.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::broker::restart::{self, Deleted};
use crate::context::Context;
use crate::kubernetes::pods;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::sessions::ingress_reports::Unanswered;
use crate::topic::observe::Observed;

/// Percent of a volume that has to be free before a restart is of use.
const FREE_PERCENT: u64 = 5;

/// When a pod that does not store is restarted.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    /// Publishers that are not answered for so long are no passing trouble (an election takes up to ten seconds).
    pub unanswered_for: Duration,
    /// A pod is not restarted before it is as old as this.
    pub min_age: Duration,
    /// Publishers that are not answered for so long are not kept waiting for a change of the servers or for copies that are
    /// made again: either may wait for just this pod.
    pub goes_first_after: Duration,
    /// A pod that was told to end may take so much longer than its grace period: its node unmounts what it had.
    pub end_slack: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            unanswered_for: Duration::from_secs(15),
            min_age: Duration::from_secs(600),
            goes_first_after: Duration::from_secs(900),
            end_slack: Duration::from_secs(120),
        }
    }
}

/// Whether the broker stores what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As far as is known, it does.
    Healthy,
    /// The volume of this pod is full.
    Full(String),
    /// This pod does not store, and is not restarted now; why.
    Stuck(String, String),
    /// This pod is to be restarted.
    Restart(String),
}

/// What the decision is made from.
pub struct Seen<'a> {
    /// The pods beside which publishers are not answered in time.
    pub unanswered: &'a [Unanswered],
    /// Whether the stream has stored nothing since the last look. A broker that is only slow is left alone.
    pub stands_still: bool,
    /// The pod that leads the stream, where there are several.
    pub leader: Option<&'a str>,
    /// The broker pods.
    pub pods: &'a [Pod],
    /// How many of them, the first ones, have copies of streams or are to. Those after them are joining.
    pub holders: i32,
    /// Whether there come to be more of them or fewer.
    pub is_changing: bool,
    /// Whether copies of streams are made again from others: the whole one may lie on the pod alone.
    pub is_healing: bool,
    /// When one is restarted.
    pub policy: RestartPolicy,
}

/// Whether a topic's stream of events ends where it ended at the last look. (What is remembered for finding losses,
/// `status.stream`, stays as it is while events are missed.)
pub(super) fn stands_still(topic: &EventTopic, last: i64) -> bool {
    topic.status.as_ref().is_some_and(|status| status.last_sequence == Some(last))
}

/// Decides.
pub fn judge(seen: &Seen<'_>, now: jiff::Timestamp) -> Storage {
    let Seen { unanswered, stands_still, leader, pods, holders, is_changing, is_healing, policy } = *seen;
    let lasting: Vec<&Unanswered> = unanswered.iter().filter(|found| found.lasting >= policy.unanswered_for).collect();
    if lasting.is_empty() || !stands_still {
        return Storage::Healthy;
    }
    let is_full =
        |found: &&&Unanswered| found.volume.is_some_and(|volume| volume.free / FREE_PERCENT < volume.total / 100);
    if let Some(full) = lasting.iter().find(is_full) {
        return Storage::Full(full.pod.clone());
    }
    let Some(name) = leader.or_else(|| lasting.first().map(|found| found.pod.as_str())) else {
        return Storage::Healthy;
    };
    let Some(pod) = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)) else { return Storage::Healthy };
    let stuck = |why: &str| Storage::Stuck(name.to_owned(), why.to_owned());
    if is_ending(pod) {
        return Storage::Stuck(name.to_owned(), with_overdue("it is being restarted", pod, policy, now));
    }
    // One pod at a time, whichever topic asks for it: one that ends is ready for as long as it takes to.
    if let Some(ending) = pods.iter().find(|pod| is_ending(pod) && is_waited_for(pod, holders, policy, now)) {
        let why = "it is restarted when no other broker pod is being restarted";
        return Storage::Stuck(name.to_owned(), with_overdue(why, ending, policy, now));
    }
    let goes_first = lasting.iter().any(|found| found.lasting >= policy.goes_first_after);
    if is_changing && !goes_first {
        return stuck(
            "it is restarted when the broker has as many servers as it is to have, or when this has lasted for 15 minutes",
        );
    }
    if is_healing && holders > 1 && !goes_first {
        return stuck(
            "it is restarted when every copy of a stream is whole, which condition Intact of the EventBroker tells, or when this has lasted for 15 minutes",
        );
    }
    let ready = pods.iter().filter(|pod| is_holder(pod, holders) && is_ready(pod)).count();
    if holders > 1 && i32::try_from(ready).unwrap_or(i32::MAX) < holders {
        return stuck("it is restarted when all broker pods are ready");
    }
    let age = pod.metadata.creation_timestamp.as_ref().map(|created| now.duration_since(created.0));
    if age.is_none_or(|age| age.unsigned_abs() < policy.min_age) {
        return stuck("it is restarted when it has run for ten minutes");
    }
    Storage::Restart(name.to_owned())
}

fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether another pod is not restarted before this one has ended. Where its node is gone it may never: then it is waited for
/// only if it has copies, because without it and one more there may be no majority of those.
fn is_waited_for(pod: &Pod, holders: i32, policy: RestartPolicy, now: jiff::Timestamp) -> bool {
    is_holder(pod, holders) || !pods::is_overdue(pod, policy.end_slack, now)
}

/// What is waited for, and what a person can do where this pod should have ended.
fn with_overdue(why: &str, pod: &Pod, policy: RestartPolicy, now: jiff::Timestamp) -> String {
    let overdue = pods::overdue([pod], policy.end_slack, now).map(|overdue| format!(": {}", overdue.message));
    format!("{why}{}", overdue.unwrap_or_default())
}

/// Whether it is among those that have copies of streams.
fn is_holder(pod: &Pod, holders: i32) -> bool {
    ordinal(pod).is_some_and(|number| number < holders)
}

fn ordinal(pod: &Pod) -> Option<i32> {
    pod.metadata.name.as_deref()?.rsplit_once('-')?.1.parse().ok()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Restarts the pod that does not store, where that is of use.
///
/// # Errors
/// The API server did not take it.
pub async fn heal(context: &Context, topic: &EventTopic, observed: &Observed, storage: &Storage) -> Result<(), Error> {
    let Storage::Restart(name) = storage else { return Ok(()) };
    let Some(pod) = observed.pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(name)) else { return Ok(()) };
    if restart::delete(context, &observed.broker_key, pod, &observed.pods).await? != Deleted::Now {
        return Ok(());
    }
    let note = format!("pod {name} answers and stores nothing, and its volume has room: it is restarted");
    report::event(context, topic, EventType::Warning, "BrokerRestarted", &note).await;
    Ok(())
}

/// The condition.
pub fn storage_healthy(storage: &Storage) -> Finding {
    let unhealthy = |reason, message| Finding::new(kind::STORAGE_HEALTHY, Status::False, reason, message);
    match storage {
        Storage::Healthy => {
            Finding::new(kind::STORAGE_HEALTHY, Status::True, "Storing", "the broker stores what it is given")
        }
        Storage::Full(pod) => unhealthy(
            "DiskFull",
            format!(
                "the volume of pod {pod} is full, and publishers are not answered. Make room on it or enlarge its claim; the pod is restarted when there is room"
            ),
        ),
        Storage::Stuck(pod, why) => unhealthy("NotStoring", format!("pod {pod} answers, but stores nothing: {why}")),
        Storage::Restart(pod) => {
            unhealthy("Restarting", format!("pod {pod} answers, but stores nothing: it is restarted"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_broker_client::contract::VolumeRoom;

    use super::*;

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-01T11:55:00Z";

    fn pod(number: u32, ready: bool, created: &str) -> Pod {
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": format!("b-{number}"), "uid": "u", "creationTimestamp": created},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_restart_comes_when_it_is_of_use_and_not_too_often() {
        let now: jiff::Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let seen = |lasting, free: Option<u64>| Unanswered {
            pod: "b-0".into(),
            lasting: Duration::from_secs(lasting),
            volume: free.map(|free| VolumeRoom { total: 1_000_000, free }),
        };
        let one = |created| vec![pod(0, true, created)];
        let three = |last| vec![pod(0, true, OLD), pod(1, true, OLD), pod(2, last, OLD)];
        let table = [
            (vec![], None, one(OLD), 1, Storage::Healthy),
            (vec![seen(5, Some(0))], None, one(OLD), 1, Storage::Healthy),
            (vec![seen(20, Some(0))], None, one(OLD), 1, Storage::Full("b-0".into())),
            (vec![seen(20, Some(49_000))], None, one(OLD), 1, Storage::Full("b-0".into())),
            (vec![seen(20, Some(60_000))], None, one(OLD), 1, Storage::Restart("b-0".into())),
            (vec![seen(20, None)], None, one(OLD), 1, Storage::Restart("b-0".into())),
            (vec![seen(20, None)], None, one(NEW), 1, Storage::Stuck("b-0".into(), "ten minutes".into())),
            (vec![seen(20, None)], Some("b-1"), three(true), 3, Storage::Restart("b-1".into())),
            (
                vec![seen(20, None)],
                Some("b-1"),
                three(false),
                3,
                Storage::Stuck("b-1".into(), "all broker pods".into()),
            ),
        ];
        for (unanswered, leader, pods, holders, expected) in table {
            let look = |stands_still| Seen {
                unanswered: &unanswered,
                stands_still,
                leader,
                pods: &pods,
                holders,
                is_changing: false,
                is_healing: false,
                policy: RestartPolicy::default(),
            };
            assert_eq!(judge(&look(false), now), Storage::Healthy, "it is only slow");
            let found = judge(&look(true), now);
            match (&found, &expected) {
                (Storage::Stuck(found, why), Storage::Stuck(pod, word)) => {
                    assert!(found == pod && why.contains(word.as_str()), "{why}")
                }
                _ => assert_eq!(found, expected, "{unanswered:?}"),
            }
            assert_eq!(storage_healthy(&found).is_true(), found == Storage::Healthy);
        }
    }

    #[test]
    fn a_stream_stands_still_also_while_events_of_it_are_missed() {
        let topic = |status: serde_json::Value| -> EventTopic {
            serde_json::from_value(json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {}, "spec": {}, "status": status,
            }))
            .unwrap()
        };
        let remembered = json!({"created": "2026-01-01T00:00:00Z", "firstSequence": 1, "lastSequence": 100, "missing": 0, "removes": false});
        let missed = topic(json!({"lastSequence": 120, "stream": remembered}));
        assert!(stands_still(&missed, 120) && !stands_still(&missed, 121));
        assert!(!stands_still(&topic(json!({})), 0), "it was not looked at yet");
    }

    #[test]
    fn one_pod_of_a_broker_is_restarted_at_a_time() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let judged = |lasting: u64, is_ending: bool, is_changing: bool, is_healing: bool| {
            let unanswered = [Unanswered { pod: "b-0".into(), lasting: Duration::from_secs(lasting), volume: None }];
            let mut pods = [pod(0, true, OLD), pod(1, true, OLD), pod(2, true, OLD)];
            if is_ending {
                // It is ready for as long as it takes to end.
                pods[1].metadata.deletion_timestamp = pods[0].metadata.creation_timestamp.clone();
            }
            let policy = RestartPolicy::default();
            let (unanswered, pods) = (&unanswered[..], &pods[..]);
            let seen = Seen {
                unanswered,
                stands_still: true,
                leader: Some("b-0"),
                pods,
                holders: 3,
                is_changing,
                is_healing,
                policy,
            };
            judge(&seen, now)
        };
        assert_eq!(judged(20, false, false, false), Storage::Restart("b-0".into()));
        for (lasting, ending, changing, healing) in
            [(20, true, false, false), (899, false, true, false), (899, false, false, true), (9000, true, true, true)]
        {
            let found = judged(lasting, ending, changing, healing);
            assert!(matches!(found, Storage::Stuck(..)), "{lasting} {ending} {changing} {healing}");
        }
        // Either may wait for just this pod.
        assert_eq!(judged(900, false, true, true), Storage::Restart("b-0".into()));
    }

    /// Its node is gone, and Kubernetes does not remove it by itself.
    #[test]
    fn a_pod_that_does_not_end_is_told_and_holds_up_a_restart_only_if_it_has_copies() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let unanswered = [Unanswered { pod: "b-0".into(), lasting: Duration::from_secs(900), volume: None }];
        let judged = |ending: usize, told: &str| {
            let mut pods = [pod(0, true, OLD), pod(1, true, OLD), pod(2, true, OLD), pod(3, true, OLD)];
            let told: jiff::Timestamp = told.parse().unwrap();
            pods[ending].metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(told));
            let seen = Seen {
                unanswered: &unanswered,
                stands_still: true,
                leader: Some("b-0"),
                pods: &pods,
                holders: 3,
                is_changing: true,
                is_healing: false,
                policy: RestartPolicy::default(),
            };
            judge(&seen, now)
        };
        let (soon, long_ago) = ("2026-11-25T11:59:00Z", "2026-11-25T11:30:00Z");
        for (ending, told, remedy) in
            [(1, soon, None), (1, long_ago, Some("b-1")), (3, soon, None), (0, soon, None), (0, long_ago, Some("b-0"))]
        {
            let found = storage_healthy(&judged(ending, told));
            assert_eq!(found.reason, "NotStoring", "{ending} {told}");
            let command = remedy.map(|pod| format!("kubectl delete pod {pod} -n "));
            let is_told = command.as_ref().is_some_and(|command| found.message.contains(command));
            assert_eq!(is_told, remedy.is_some(), "{ending} {told}: {}", found.message);
            assert_eq!(found.message.contains("--force"), remedy.is_some(), "{}", found.message);
        }
        assert_eq!(judged(3, long_ago), Storage::Restart("b-0".into()), "it has no copies");
    }

    #[test]
    fn servers_that_never_join_hold_up_no_restart_for_ever() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let unanswered = [Unanswered { pod: "b-0".into(), lasting: Duration::from_secs(900), volume: None }];
        let pods = [pod(0, true, OLD), pod(1, true, OLD), pod(2, false, OLD), pod(3, true, OLD)];
        let judged = |pods: &[Pod], holders: i32| {
            let seen = Seen {
                unanswered: &unanswered,
                stands_still: true,
                leader: Some("b-0"),
                pods,
                holders,
                is_changing: true,
                is_healing: false,
                policy: RestartPolicy::default(),
            };
            judge(&seen, now)
        };
        assert_eq!(judged(&pods[..1], 1), Storage::Restart("b-0".into()), "nothing else has a copy");
        assert_eq!(judged(&pods, 1), Storage::Restart("b-0".into()));
        assert!(matches!(judged(&pods, 3), Storage::Stuck(..)), "one that has copies is away");
    }
}
