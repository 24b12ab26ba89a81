//! What becomes of an event that is not handled at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;
use crate::statuses::StatusRules;

/// What becomes of old events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expiry {
    /// An event that was stored longer ago than this is not delivered (any more).
    #[serde(with = "millis")]
    pub max_age: Duration,
    /// What becomes of it.
    pub on_expired: OnExpired,
}

/// What becomes of an event that is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExpired {
    /// It becomes a dead letter.
    DeadLetter,
    /// It is acknowledged undelivered.
    Skip,
}

/// What to do after an attempt that may succeed later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Deliveries in all, the first included; at least 1.
    pub max_attempts: u32,
    /// The wait before the second attempt.
    #[serde(with = "millis")]
    pub initial: Duration,
    /// No wait is longer.
    #[serde(with = "millis")]
    pub max: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub factor: f64,
    /// The share of a wait that is random: 0.2 means ± 20 %.
    pub jitter: f64,
    /// Which answers are final.
    #[serde(default, skip_serializing_if = "StatusRules::is_empty")]
    pub statuses: StatusRules,
}

/// What becomes of an event of which no further attempt is made, because it is out of attempts, or because its handler
/// said that it will never succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExhausted {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It stays where it is, and holds up its key until a person releases it.
    Park,
}

impl OnExhausted {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
