//! Events as they come.

use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::refusal::Status;
use super::{Api, CallError, MAX_ANSWER, MAX_TURNS, TURN_PAUSE, other_version};

/// The API ends a watch after 50 s, and the API server after a minute: without a byte for longer, its connection is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);

/// What a watch shows.
#[derive(Debug)]
pub enum Change {
    /// It has begun, and shows what is stored after this sequence.
    Begun(u64),
    /// An event.
    Added(Box<RawValue>),
}

/// A watch that has begun.
pub struct Watch {
    body: Body,
    read: BytesMut,
    /// What of `read` has no end of a line in it.
    searched: usize,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Box<RawValue>,
}

#[derive(Deserialize)]
struct Bookmark {
    sequence: u64,
}

impl Api {
    /// Begins to watch.
    ///
    /// # Errors
    /// It is not answered, or refused.
    pub async fn watch(&self, path: &str) -> Result<Watch, CallError> {
        let answered = timeout(super::CALL_TIMEOUT, self.send(Method::GET, path, None)).await;
        let response = answered.unwrap_or_else(|_| Err(CallError::late()))?;
        Ok(Watch { body: response.into_body(), read: BytesMut::new(), searched: 0 })
    }

    /// The same, after a pause where too many others ask.
    ///
    /// # Errors
    /// As [`Api::watch`].
    pub async fn watch_in_turn(&self, path: &str) -> Result<Watch, CallError> {
        let mut turns = 1;
        loop {
            match self.watch(path).await {
                Err(CallError::Busy(_)) if turns < MAX_TURNS => turns += 1,
                answered => return answered,
            }
            sleep(TURN_PAUSE).await;
        }
    }
}

impl Watch {
    /// The next change; `None`: it has ended, as each does after a while.
    ///
    /// # Errors
    /// It broke off, or says that something is away.
    pub async fn next(&mut self) -> Result<Option<Change>, CallError> {
        let Some(line) = self.line().await? else { return Ok(None) };
        let parsed = |error| CallError::from(other_version(error));
        let line: Line = serde_json::from_slice(&line).map_err(parsed)?;
        match line.kind.as_str() {
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(line.object.get()).map_err(parsed)?;
                Ok(Some(Change::Begun(bookmark.sequence)))
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(line.object.get()).map_err(parsed)?;
                Err(CallError::of(&status))
            }
            _ => Ok(Some(Change::Added(line.object))),
        }
    }

    async fn line(&mut self) -> Result<Option<BytesMut>, CallError> {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > MAX_ANSWER {
                return Err(CallError::broken("a line is too long"));
            }
            match timeout(SILENCE_TIMEOUT, self.body.frame()).await {
                Err(_) => return Err(CallError::broken("nothing came for too long")),
                Ok(None) if self.read.is_empty() => return Ok(None),
                Ok(None) => return Err(CallError::broken("in the middle of a line")),
                Ok(Some(Err(error))) => return Err(CallError::broken(error)),
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
