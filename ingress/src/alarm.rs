//! Tells the operator that events cannot be stored, so that it makes room or looks after the broker, and how far the stream
//! is, so that it notices when the stream loses its end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_broker_client::contract::{
    INGRESS_REPORT_PERIOD, IngressFailure, IngressReport, LostTail, StoreFailure, StreamProgress, VolumeRoom,
};
use tidegate_wire::nats::{Client, Publish};
use tokio::time::Instant;

use crate::outcome::Failure;

/// A file system answers within this, or is not waited for.
const STAT_TIMEOUT: Duration = Duration::from_millis(500);

/// The way to the operator, for one topic.
pub struct Alarm {
    client: Client,
    /// Where it listens.
    subject: String,
    pod: Arc<str>,
    volume: Option<PathBuf>,
    /// When a full stream was last reported, a broker that does not answer, and a full broker.
    raised: Mutex<[Option<Instant>; 3]>,
}

impl Alarm {
    /// From this pod, with this folder on the broker's volume.
    pub fn new(client: Client, subject: String, pod: Arc<str>, volume: Option<PathBuf>) -> Self {
        Self { client, subject, pod, volume, raised: Mutex::default() }
    }

    /// Reports a failure, unless it was reported a moment ago. The operator can do nothing about the other failures.
    pub async fn raise(&self, failure: Failure) {
        let (place, failure) = match failure {
            Failure::Full => (0, StoreFailure::Full),
            Failure::Timeout => (1, StoreFailure::Timeout),
            Failure::BrokerFull => (2, StoreFailure::BrokerFull),
            Failure::TooLarge | Failure::Refused | Failure::Pending | Failure::Unavailable => return,
        };
        if !self.is_due(place) {
            return;
        }
        let report = IngressFailure { pod: self.pod.to_string(), failure, volume: self.room().await };
        if !self.send(&IngressReport::Failure(report)) {
            // The next failure of this kind tries it.
            self.raised()[place] = None;
        }
    }

    /// Says up to which sequence events were acknowledged to publishers since it was said last, and what the stream has lost
    /// of them. Whether it was sent.
    pub fn tell_progress(&self, acknowledged: Option<u64>, lost: Option<LostTail>) -> bool {
        if let Some(LostTail { first, last, .. }) = lost {
            tracing::debug!(first, last, "reporting that the stream has lost its end");
        }
        let pod = self.pod.to_string();
        self.send(&IngressReport::Progress(StreamProgress { pod, acknowledged, lost }))
    }

    /// Publishers do not wait for it.
    fn send(&self, report: &IngressReport) -> bool {
        let publish = |report: Vec<u8>| {
            let message = Publish { subject: &self.subject, payload: &report, ..Publish::default() };
            self.client.try_publish(&message).is_ok()
        };
        let is_sent = serde_json::to_vec(report).is_ok_and(publish);
        if !is_sent {
            tracing::debug!(?report, "could not report to the operator");
        }
        is_sent
    }

    /// How full the broker's volume is. A file system that hangs is asked on a thread of its own.
    async fn room(&self) -> Option<VolumeRoom> {
        let volume = self.volume.clone()?;
        let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&volume));
        let found = tokio::time::timeout(STAT_TIMEOUT, asked).await.ok()?.ok()?.ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(VolumeRoom { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }

    fn raised(&self) -> MutexGuard<'_, [Option<Instant>; 3]> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, place: usize) -> bool {
        let mut raised = self.raised();
        let due = raised[place].is_none_or(|at| at.elapsed() >= INGRESS_REPORT_PERIOD);
        if due {
            raised[place] = Some(Instant::now());
        }
        due
    }
}
