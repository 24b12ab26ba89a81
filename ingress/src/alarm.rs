//! Tells the operator that events cannot be stored, so that it makes room or looks after the broker.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use tidegate_broker_client::contract::{
    INGRESS_REPORT_PERIOD, Ingress, IngressReport, Routing, StoreFailure, VolumeRoom,
};
use tidegate_broker_client::layout;
use tokio::time::Instant;

use crate::outcome::Failure;

/// Where this pod's name is: set by the operator, else the host's name.
const POD: [&str; 2] = ["K8S_POD_NAME", "HOSTNAME"];

/// A file system answers within this, or is not waited for.
const STAT_TIMEOUT: Duration = Duration::from_millis(500);

/// The way to the operator.
pub struct Alarm {
    client: Client,
    pod: String,
    volume: Option<PathBuf>,
    /// When a full stream was last reported, and a broker that does not answer.
    raised: Mutex<[Option<Instant>; 2]>,
}

impl Alarm {
    /// `None` on a topic that stores nothing.
    pub fn new(client: Client, config: &Ingress) -> Option<Self> {
        let pod = POD.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        let volume = config.volume.clone();
        (config.routing == Routing::Queued).then(|| Self { client, pod, volume, raised: Mutex::default() })
    }

    /// Reports a failure, unless it was reported a moment ago. The operator can do nothing about the other failures.
    pub async fn raise(&self, failure: Failure) {
        let (place, failure) = match failure {
            Failure::Full => (0, StoreFailure::Full),
            Failure::Timeout => (1, StoreFailure::Timeout),
            Failure::TooLarge | Failure::Refused | Failure::Pending | Failure::Unavailable => return,
        };
        if !self.is_due(place) {
            return;
        }
        let report = IngressReport { pod: self.pod.clone(), failure, volume: self.room().await };
        let sent = match serde_json::to_vec(&report) {
            Ok(report) => self.client.publish(layout::INGRESS_REPORT_SUBJECT, report.into()).await.is_ok(),
            Err(_) => false,
        };
        if !sent {
            tracing::debug!(?failure, "could not report the failure to the operator");
        }
    }

    /// How full the broker's volume is. A file system that hangs is asked on a thread of its own.
    async fn room(&self) -> Option<VolumeRoom> {
        let volume = self.volume.clone()?;
        let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&volume));
        let found = tokio::time::timeout(STAT_TIMEOUT, asked).await.ok()?.ok()?.ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(VolumeRoom { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
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
