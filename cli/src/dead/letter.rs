//! A dead letter as the API shows it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::stored::{Stored, number, parse};

/// Why an event is a dead letter. A sidecar of the user's pod wrote it: any of it may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Why {
    pub reason: String,
    pub dead_since: String,
    pub event_sequence: Option<u64>,
    pub attempts: Option<u64>,
    pub outage_attempts: Option<u64>,
    pub first_attempt: String,
    pub last_attempt: String,
    pub last_status: Option<u16>,
    pub last_error: String,
    /// Bytes of data, where the data itself is left out.
    pub data_bytes: Option<u64>,
    history: Vec<Box<RawValue>>,
}

/// A failed attempt.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Attempt {
    pub time: String,
    pub status: Option<u16>,
    pub error: String,
}

/// What an item of a list is, or one that was asked for alone.
pub struct Letter {
    pub stored: Stored,
    pub why: Why,
}

impl Letter {
    /// # Errors
    /// The API is of another version.
    pub fn parse(item: &RawValue) -> Result<Self, Failure> {
        Ok(Self { stored: parse(item)?, why: parse(item)? })
    }

    /// Why it is a dead letter, in names and values; what is not known is empty.
    pub fn facts(&self) -> [(&'static str, String); 10] {
        let Self { stored, why } = self;
        [
            ("Reason", why.reason.clone()),
            ("Stored", stored.time.clone()),
            ("Dead since", why.dead_since.clone()),
            ("Sequence in the topic", number(why.event_sequence)),
            ("Attempts", number(why.attempts)),
            ("Attempts during outages", number(why.outage_attempts)),
            ("First attempt", why.first_attempt.clone()),
            ("Last attempt", why.last_attempt.clone()),
            ("Last status", number(why.last_status)),
            ("Last error", why.last_error.clone()),
        ]
    }

    /// The attempts that are on record.
    pub fn history(&self) -> impl Iterator<Item = Attempt> {
        self.why.history.iter().filter_map(|attempt| serde_json::from_str(attempt.get()).ok())
    }
}
