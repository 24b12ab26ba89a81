//! What a server reports of itself, in its own words (`JSInfo`, `Varz`). It is not believed: lists and numbers have bounds.

use serde::Deserialize;

use super::counts::Counts;

/// Streams of a broker at most: as many as the consumers of a thousand handlers with 32 lanes.
pub(super) const MAX_STREAMS: usize = 32 * 1024;
/// Longest name or id that is looked at.
const MAX_NAME: usize = 256;

/// The answer to a question that goes to every server.
#[derive(Deserialize)]
pub(super) struct Answer<T> {
    pub server: Answerer,
    pub data: Option<T>,
}

#[derive(Deserialize)]
pub(super) struct Answerer {
    pub name: String,
    pub id: String,
}

#[derive(Deserialize)]
pub(super) struct Varz {
    #[serde(default)]
    pub config_digest: String,
}

#[derive(Deserialize)]
pub(super) struct JetStream {
    #[serde(default)]
    pub disabled: bool,
    /// Accounts of all pages.
    #[serde(default)]
    pub total: usize,
    /// Streams of all accounts.
    #[serde(default)]
    pub streams: usize,
    /// Consumers of all accounts.
    #[serde(default)]
    pub consumers: usize,
    #[serde(default)]
    pub meta_cluster: Option<Meta>,
    #[serde(default)]
    pub account_details: Vec<Account>,
}

#[derive(Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    pub leader: String,
    #[serde(default)]
    pub replicas: Vec<Peer>,
    pub cluster_size: usize,
}

#[derive(Deserialize)]
pub(super) struct Peer {
    pub peer: String,
    #[serde(default)]
    pub current: bool,
    #[serde(default)]
    pub offline: bool,
}

#[derive(Deserialize)]
pub(super) struct Account {
    pub id: String,
    #[serde(default)]
    pub stream_detail: Vec<Detail>,
}

#[derive(Deserialize)]
pub(crate) struct Detail {
    pub name: String,
    pub config: Config,
    pub state: Counts,
    #[serde(default)]
    pub cluster: Option<Group>,
}

#[derive(Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pub num_replicas: usize,
    #[serde(default)]
    pub max_age: u64,
}

#[derive(Deserialize)]
pub(crate) struct Group {
    #[serde(default)]
    pub leader: String,
    /// What it is to become; only its presence matters.
    #[serde(default)]
    pub desired: Option<serde::de::IgnoredAny>,
}

impl<T> Answer<T> {
    /// Whether names and ids are of a length that a server gives.
    pub(super) fn is_sane(&self) -> bool {
        [&self.server.name, &self.server.id].iter().all(|text| (1..=MAX_NAME).contains(&text.len()))
    }
}
