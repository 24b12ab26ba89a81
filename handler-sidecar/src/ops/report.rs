//! The sidecar's reports to the operator: whether the handler is down as a whole and how deliveries end, which become
//! conditions, and how much it works, by which the operator scales.

use std::time::Duration;

use tidegate_broker_client::contract::{REPORT_PERIOD, Report, Workload};
use tidegate_broker_client::outcomes::single_line;
use tidegate_broker_client::{identity, layout};
use tidegate_wire::nats::Publish;
use tokio::time::{Instant, sleep, timeout};

use crate::consume::process::Context;
use crate::deliver::availability::State;
use crate::deliver::listeners::{self, Reach};

/// Where Kubernetes says the pod's name.
const POD: [&str; 2] = ["K8S_POD_NAME", "HOSTNAME"];
/// The longest reason, in bytes.
const REASON_LIMIT: usize = 256;
/// Between two reports, so that a handler that comes and goes does not flood the broker.
const LEAST: Duration = Duration::from_millis(200);
/// An open breaker is an outage after this time: before, a single event may have opened it.
const OUTAGE_AFTER: Duration = Duration::from_secs(1);
/// While the handler works, a report is due this often.
const WORKLOAD_PERIOD: Duration = Duration::from_secs(1);

/// Reports every change, and again and again. Never returns.
pub async fn run(context: &Context) {
    let pod = pod(|name| std::env::var(name).ok());
    let subject = layout::report_subject(&context.config.handler);
    let mut changes = context.availability.subscribe();
    // What is so at first is worth a report only if it stays so: a container needs its time to start.
    changes.mark_unchanged();
    let (began, mut was_reached) = (Instant::now(), false);
    let (mut reported_at, mut reported, mut is_out) = (Instant::now(), Workload::default(), false);
    let mut exposure = Exposure::default();
    loop {
        let changed = timeout(WORKLOAD_PERIOD, async {
            tokio::select! {
                _ = changes.changed() => {}
                () = context.outcomes.changed() => {}
            }
        });
        let changed = changed.await.is_ok();
        let workload = context.workload.read();
        let state = changes.borrow_and_update().clone();
        let outage = outage(&state);
        was_reached |= !matches!(state, State::Unreachable(_));
        let is_idle = !changed && outage.is_some() == is_out && workload.running_milli == 0 && workload == reported;
        let is_starting = !was_reached && began.elapsed() < REPORT_PERIOD;
        if is_starting || (is_idle && reported_at.elapsed() < REPORT_PERIOD) {
            continue;
        }
        (reported_at, reported, is_out) = (Instant::now(), workload, outage.is_some());
        let (exposed, loopback_only) = match exposure.read(&state, context.config.delivery.port).await {
            Some(Reach::Exposed(address)) => (Some(address.to_string()), false),
            Some(Reach::Loopback) => (None, true),
            None => (None, false),
        };
        let report = Report {
            pod: pod.clone(),
            outage,
            workload: Some(workload),
            exposed,
            loopback_only,
            outcomes: context.outcomes.read(),
            generation: identity::generation(&context.config.identity),
        };
        send(context, &subject, &report).await;
        sleep(LEAST).await;
    }
}

async fn send(context: &Context, subject: &str, report: &Report) {
    match serde_json::to_vec(report) {
        Ok(body) => {
            let message = Publish { subject, payload: &body, ..Publish::default() };
            if let Err(error) = context.client.publish_now(&message).await {
                tracing::debug!(%error, "no report");
            }
        }
        Err(error) => tracing::debug!(%error, "no report"),
    }
}

fn outage(state: &State) -> Option<String> {
    match state {
        State::Up => None,
        State::Unreachable(why) => Some(single_line(why, REASON_LIMIT)),
        State::Failing { since, .. } if since.elapsed() < OUTAGE_AFTER => None,
        State::Failing { last, .. } => {
            let why = format!(
                "one event after the other fails, and one at a time is tried; the program's log may say why. The last \
                 answer: {last}"
            );
            Some(single_line(&why, REASON_LIMIT))
        }
    }
}

/// Where the handler can be reached from; looked up as often as an idle sidecar reports.
#[derive(Default)]
struct Exposure {
    reach: Option<Reach>,
    read_at: Option<Instant>,
}

impl Exposure {
    async fn read(&mut self, state: &State, port: u16) -> Option<Reach> {
        // Of a program that does not listen nothing is known.
        if matches!(state, State::Unreachable(_)) {
            *self = Self::default();
        } else if self.read_at.is_none_or(|at| at.elapsed() >= REPORT_PERIOD) {
            self.reach = listeners::reach(port).await;
            self.read_at = Some(Instant::now());
        }
        self.reach
    }
}

fn pod(variable: impl Fn(&str) -> Option<String>) -> String {
    POD.into_iter().find_map(|name| variable(name).filter(|name| !name.is_empty())).unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_name_is_found() {
        assert_eq!(pod(|name| (name == "HOSTNAME").then(|| "billing-1".into())), "billing-1");
        assert_eq!(pod(|name| Some(name.to_lowercase())), "k8s_pod_name");
        assert_eq!(pod(|_| Some(String::new())), "unknown");
    }

    #[test]
    fn an_outage_has_a_bounded_reason() {
        assert_eq!(outage(&State::Up), None);
        let long = outage(&State::Unreachable("x\n".repeat(1000))).unwrap();
        assert!(long.starts_with("x x") && long.len() <= REASON_LIMIT, "{long}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_is_an_outage_if_it_stays_open() {
        let state = State::Failing { since: Instant::now(), last: "500 Internal Server Error: no".into() };
        assert_eq!(outage(&state), None);
        tokio::time::advance(OUTAGE_AFTER).await;
        let why = outage(&state).unwrap();
        assert!(why.ends_with("The last answer: 500 Internal Server Error: no"), "{why}");
    }
}
