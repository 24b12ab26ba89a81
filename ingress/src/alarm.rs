//! Tells the operator that events cannot be stored, so that it makes room or looks after the broker.

use std::sync::{Mutex, PoisonError};

use async_nats::Client;
use tidegate_broker_client::contract::{INGRESS_REPORT_PERIOD, IngressReport, Routing, StoreFailure};
use tidegate_broker_client::layout;
use tokio::time::Instant;

use crate::outcome::Failure;

/// Where this pod's name is: set by the operator, else the host's name.
const POD: [&str; 2] = ["K8S_POD_NAME", "HOSTNAME"];

/// The way to the operator.
pub struct Alarm {
    client: Client,
    pod: String,
    /// When the operator was told of a full stream, and of a broker that does not answer.
    raised: Mutex<[Option<Instant>; 2]>,
}

impl Alarm {
    /// `None` on a topic that stores nothing.
    pub fn new(client: Client, routing: Routing) -> Option<Self> {
        let pod = POD.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        (routing == Routing::Queued).then(|| Self { client, pod, raised: Mutex::default() })
    }

    /// Reports a failure, unless it was reported a moment ago. The other failures are not the operator's to mend.
    pub async fn raise(&self, failure: Failure) {
        let (place, failure) = match failure {
            Failure::Full => (0, StoreFailure::Full),
            Failure::Timeout => (1, StoreFailure::Timeout),
            Failure::TooLarge | Failure::Refused | Failure::Unavailable => return,
        };
        if !self.is_due(place) {
            return;
        }
        let report = IngressReport { pod: self.pod.clone(), failure };
        let sent = match serde_json::to_vec(&report) {
            Ok(report) => self.client.publish(layout::INGRESS_REPORT_SUBJECT, report.into()).await.is_ok(),
            Err(_) => false,
        };
        if !sent {
            tracing::debug!(?failure, "the operator was not told");
        }
    }

    fn is_due(&self, place: usize) -> bool {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let due = raised[place].is_none_or(|at| at.elapsed() >= INGRESS_REPORT_PERIOD);
        if due {
            raised[place] = Some(Instant::now());
        }
        due
    }
}
