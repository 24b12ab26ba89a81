//! What runs, as `tidegate dev` tells it to `tidegate send` and to whoever publishes from this machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_broker_client::TopicId;

/// The way to the topics of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// The process of `tidegate dev`.
    pub pid: u32,
    /// The certificate authority of the addresses, PEM.
    pub ca: PathBuf,
    /// The topics.
    pub topics: Vec<RunningTopic>,
}

/// The way to a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningTopic {
    /// Which one.
    #[serde(flatten)]
    pub id: TopicId,
    /// Where its events are published.
    pub url: String,
    /// The same in plain HTTP, if there is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The file with a token for it; it is replaced before the token ends. `None`: it needs none, or takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}
