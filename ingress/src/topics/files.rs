//! The file that says which topics there are. The kubelet replaces it when the operator changes its Secret.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker_client::contract::{MAX_TOPICS_FILE, TOPICS_FILE, Topics as Wanted, TopicsError};
use tidegate_broker_client::message_id::BadKey;
use tokio::time::{MissedTickBehavior, interval};

use super::Topics;
use crate::auth::ClientCasError;

/// The file, and what it said last.
pub struct TopicsFile {
    path: PathBuf,
    topics: Arc<Topics>,
    /// The last content, whether it was of use or not.
    seen: Option<Vec<u8>>,
    /// The last failure to read it, which is told once.
    failed: Option<String>,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or not for this program.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// It does not say which topics there are.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// A topic has no key.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// It names certificate authorities that are none; all else of it is in use.
    #[error(transparent)]
    ClientCas(#[from] ClientCasError),
}

impl TopicsFile {
    /// The file in this folder, from which these topics come.
    pub fn new(folder: &Path, topics: Arc<Topics>) -> Self {
        Self { path: folder.join(TOPICS_FILE), topics, seen: None, failed: None }
    }

    /// Looks for a change every so often. Never returns.
    pub async fn watch(mut self, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.check();
        }
    }

    /// Reads it, and serves what it says if that has changed. What is of no use changes nothing.
    pub fn check(&mut self) {
        let result = self.apply();
        let error = match result {
            Ok(true) => {
                tracing::info!(file = %self.path.display(), "serving the topics of this file");
                None
            }
            Ok(false) => return,
            Err(error) => Some(error.to_string()),
        };
        if error.is_some() && error != self.failed {
            self.topics.shared.instruments.unreadable();
            let (file, error) = (self.path.display(), error.as_deref().unwrap_or_default());
            tracing::error!(%file, error, "cannot use the file of topics, or a part of it: what was there before counts");
        }
        self.failed = error;
    }

    /// Whether there was something new.
    fn apply(&mut self) -> Result<bool, FileError> {
        let content = read(&self.path)?;
        if self.seen.as_ref() == Some(&content) {
            return Ok(false);
        }
        let wanted = Wanted::parse(&content);
        self.seen = Some(content);
        let wanted = wanted?;
        // Publishers are known before a topic asks who they are. Authorities of no use do not keep topics away.
        let known = self.topics.shared.auth.replace(&wanted);
        self.topics.replace(&wanted)?;
        known?;
        Ok(true)
    }
}

/// The content, or a little more than there may be. A mounted Secret is in memory, so this waits for nothing.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let most = u64::try_from(MAX_TOPICS_FILE).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)?.take(most).read_to_end(&mut content)?;
    Ok(content)
}
