//! What pods say themselves (pure).

use k8s_openapi::api::core::v1::{Event, Pod};
use tidegate_operator::kubernetes::pods;

use super::facts::Seen;
use super::finding::{Finding, State};

/// The link that the handler's own pods are.
pub const PODS: &str = "pods";
/// The reason of pods that are not all ready, without trouble that is known.
const NOT_READY: &str = "PodsNotReady";
/// The reason of a handler that is to have no pods now.
const SCALED_TO_ZERO: &str = "ScaledToZero";
/// Reasons of pods of which the kubelet gives none.
const NO_CAUSE: [&str; 4] = ["PodsStarting", "RollingOut", "Waking", NOT_READY];

/// What is found of a broker's pods.
pub fn of_broker_pods(shown: &str, seen: &Seen<Vec<Pod>>) -> Finding {
    const LINK: &str = "broker pods";
    let all = match seen {
        Seen::There(all) => all,
        Seen::Missing => return Finding::new(LINK, State::Unknown, shown, "NoPods", "there are no pods"),
        Seen::Unread(why) => return Finding::unread(LINK, shown, why),
    };
    let (ready, alive) = count_ready(all);
    let counts = format!("{ready} of {alive} pods are ready");
    match pods::trouble(all) {
        Some(trouble) => {
            Finding::new(LINK, State::Warning, shown, "PodsFailing", &format!("{counts}: {}", trouble.message))
        }
        None if ready == alive && alive > 0 => Finding::new(LINK, State::Ok, shown, "Pods", &counts),
        None => Finding::new(LINK, State::Warning, shown, NOT_READY, &counts),
    }
}

/// Of the pods that are not on their way out: those that are ready, and all.
fn count_ready(all: &[Pod]) -> (usize, usize) {
    let alive = || all.iter().filter(|pod| pods::is_alive(pod));
    (alive().filter(|pod| pods::is_ready(pod)).count(), alive().count())
}

/// Adds to what the operator says of the handler's pods what they say themselves.
pub fn complete(own: &mut [Finding], shown: &str, seen: &Seen<Vec<Pod>>, warnings: Option<&Seen<Vec<Event>>>) {
    let Some(finding) = own.iter_mut().find(|finding| finding.link == PODS) else { return };
    let all = match seen {
        Seen::There(all) => all,
        Seen::Missing => return,
        Seen::Unread(why) => {
            // What is wrong by the operator's word is wrong.
            if finding.state != State::Red {
                *finding = Finding::unread(PODS, shown, why);
            }
            return;
        }
    };
    let trouble = pods::trouble(all);
    if let Some(trouble) = trouble.as_ref().filter(|_| matches!(finding.state, State::Ok | State::Unknown)) {
        *finding = Finding::new(PODS, State::Warning, shown, "PodsFailing", &trouble.message);
        return;
    }
    let (ready, alive) = count_ready(all);
    if finding.state == State::Ok && finding.reason != SCALED_TO_ZERO && (ready < alive || alive == 0) {
        let message = format!("{ready} of {alive} pods are ready; when the operator looked: {}", finding.message);
        *finding = Finding::new(PODS, State::Warning, shown, NOT_READY, &message);
    }
    if trouble.is_some() || !NO_CAUSE.contains(&finding.reason.as_str()) {
        return;
    }
    let more = match warnings {
        Some(Seen::There(warnings)) => newest(warnings),
        Some(Seen::Unread(why)) => Some(format!("their Events, which may say why, are not read: {why}")),
        _ => None,
    };
    if let Some(more) = more {
        let message = format!("{}: {more}", finding.message);
        *finding = Finding::new(PODS, finding.state, shown, &finding.reason, &message);
    }
}

/// The newest of these Events, in words.
fn newest(warnings: &[Event]) -> Option<String> {
    let time = |event: &&Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        series.or(last).or_else(|| event.event_time.as_ref().map(|time| time.0))
    };
    let event = warnings.iter().max_by_key(time)?;
    let pod = event.involved_object.name.as_deref().unwrap_or_default();
    let (reason, said) = (event.reason.as_deref().unwrap_or_default(), event.message.as_deref().unwrap_or_default());
    Some(format!("pod {pod}: {reason}: {said}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_right_only_if_there_are_some_and_all_are_ready() {
        let pod = |ready: &str| {
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value::<Pod>(json!({"metadata": {}, "status": status})).unwrap()
        };
        let (ready, starting) = (|| pod("True"), || pod("False"));
        for (seen, state, says) in [
            (vec![ready(), ready()], State::Ok, "2 of 2 pods are ready"),
            (vec![starting(), starting(), starting()], State::Warning, "0 of 3 pods are ready"),
            (vec![ready(), starting()], State::Warning, "1 of 2 pods are ready"),
            (vec![], State::Warning, "0 of 0 pods are ready"),
        ] {
            let seen = Seen::There(seen);
            let of_broker = of_broker_pods("EventBroker shop/default", &seen);
            assert_eq!((of_broker.state, of_broker.message.as_str()), (state, says));
            let mut own = [Finding::new(PODS, State::Ok, "", "PodsReady", "2 of 2 pods are ready")];
            complete(&mut own, "", &seen, None);
            assert!(own[0].state == state && own[0].message.starts_with(says), "{own:?}");
            let mut none_meant = [Finding::new(PODS, State::Ok, "", SCALED_TO_ZERO, "no events, no pods")];
            complete(&mut none_meant, "", &seen, None);
            assert_eq!(none_meant[0].state, State::Ok);
        }
    }
}
