//! What the sidecar says of its handler to the operator: whether it is down as a whole. The operator makes a
//! condition of it.

use async_nats::Client;
use tidegate_broker_client::contract::{REPORT_PERIOD, Report};
use tidegate_broker_client::layout;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::attempts::single_line;
use crate::brake::{Brake, State};

/// Where Kubernetes says the pod's name.
const POD: [&str; 2] = ["K8S_POD_NAME", "HOSTNAME"];
/// The longest reason, in bytes.
const REASON_LIMIT: usize = 256;
/// Between two reports, so that a handler that comes and goes does not flood the broker.
const LEAST: std::time::Duration = std::time::Duration::from_millis(200);

/// Reports every change, and again and again. Never returns.
pub async fn run(client: &Client, handler: &str, mut brake: watch::Receiver<Brake>) {
    let pod = pod(|name| std::env::var(name).ok());
    // What is so at first is worth a report only if it stays so: a container needs its time to start.
    brake.mark_unchanged();
    loop {
        let _ = timeout(REPORT_PERIOD, brake.changed()).await;
        let report = Report { pod: pod.clone(), outage: outage(brake.borrow_and_update().state()) };
        match serde_json::to_vec(&report) {
            Ok(body) => {
                if let Err(error) = client.publish(layout::report_subject(handler), body.into()).await {
                    tracing::debug!(%error, "no report");
                }
            }
            Err(error) => tracing::debug!(%error, "no report"),
        }
        sleep(LEAST).await;
    }
}

fn outage(state: &State) -> Option<String> {
    match state {
        State::Up => None,
        State::Unreachable(why) => Some(single_line(&format!("no connection: {why}"), REASON_LIMIT)),
        State::Unavailable(why) => Some(single_line(&format!("unavailable: {why}"), REASON_LIMIT)),
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
        assert!(long.starts_with("no connection: x x") && long.len() <= REASON_LIMIT, "{long}");
    }
}
