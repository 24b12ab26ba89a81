//! What an ingress tells the operator of a topic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an ingress says of a topic, as one of [`crate::layout::ingress::INGRESS_REPORTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IngressReport {
    /// An event could not be stored.
    Failure(IngressFailure),
    /// Events were stored.
    Progress(StreamProgress),
}

/// An event could not be stored. Said at most once in [`INGRESS_REPORT_PERIOD`] for each failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressFailure {
    /// The pod's name.
    pub pod: String,
    /// Why the event was not stored.
    pub failure: StoreFailure,
    /// The volume of the broker beside it; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeRoom>,
}

/// How far the stream is, as publishers heard it. Said [`PROGRESS_PERIOD`] after an event was acknowledged, at the latest,
/// and at once when the stream is seen to have lost its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamProgress {
    /// The pod's name.
    pub pod: String,
    /// The highest sequence that was acknowledged to a publisher; `None`: none since the last report.
    pub acknowledged: Option<u64>,
    /// What the stream was seen to have lost, the last time that it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostTail>,
}

/// The end of a stream that was acknowledged to publishers and is gone, so that its sequences were given to other events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostTail {
    /// The first sequence that is gone.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// When that was noticed, in seconds since 1970. The same in each report of the same loss.
    pub noticed: u64,
}

/// How full a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRoom {
    /// Its bytes.
    pub total: u64,
    /// Bytes that can still be written.
    pub free: u64,
}

/// Why an event was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StoreFailure {
    /// The stream has no room for it.
    Full,
    /// The broker's store has no room, whatever the stream has.
    BrokerFull,
    /// The broker is connected and did not acknowledge it in time.
    Timeout,
}

/// How often an ingress repeats a report of the same failure.
pub const INGRESS_REPORT_PERIOD: Duration = Duration::from_secs(1);

/// How long what was acknowledged may be known to the ingress alone.
pub const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
