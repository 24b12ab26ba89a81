//! What becomes of an event after an attempt. Pure: answer, attempt and policy in, decision out.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_broker_client::contract::Retry;
use tidegate_broker_client::statuses::StatusRules;

use crate::deliver::breaker::Blame;
use crate::settle::backoff::Backoff;

/// No `Retry-After` keeps an event away longer.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// An event that failed while the handler as a whole did waits for this part of the outage, so that others try it
/// first.
const OUTAGE_SHARE: u32 = 4;
/// It waits no longer, unless `Retry-After` or the first wait of the policy says so.
const MAX_OUTAGE_WAIT: Duration = Duration::from_secs(60);

/// How one attempt ended, once the handler could be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The handler answered.
    Status {
        /// The response's status.
        code: StatusCode,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
        /// The beginning of the body, where the status is not a success.
        text: String,
    },
    /// No answer within the limit.
    Timeout(Duration),
    /// The connection broke after the request went out.
    Broken(String),
}

impl Answer {
    /// Whether the event is handled.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Status { code, .. } if code.is_success())
    }

    /// The response's status, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(code.as_u16()),
            Self::Timeout(_) | Self::Broken(_) => None,
        }
    }

    /// What `Retry-After` asked for.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Timeout(_) | Self::Broken(_) => None,
        }
    }

    /// How long the handler asked not to be sent anything, whatever event it would be.
    pub fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::Status {
                code: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, retry_after, ..
            } => *retry_after,
            _ => None,
        }
    }

    /// What it means for the event, whichever attempt it ended.
    pub fn class(&self, statuses: &StatusRules) -> Class {
        match self {
            Self::Status { code, .. } if code.is_success() => Class::Success,
            Self::Status { code, .. } => {
                let is_retried = statuses.is_retried(code.as_u16()).unwrap_or_else(|| is_usually_retried(*code));
                if is_retried { Class::Retryable } else { Class::Final }
            }
            Self::Timeout(_) | Self::Broken(_) => Class::Retryable,
        }
    }
}

/// What an answer means for the event, whichever attempt it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It is handled.
    Success,
    /// It failed, and another attempt may succeed.
    Retryable,
    /// It will never succeed.
    Final,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { code, text, .. } => write!(f, "{code}: {text}"),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Broken(error) => f.write_str(error),
        }
    }
}

/// What to do with the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is handled.
    Acknowledge,
    /// The broker keeps it and gives it to somebody after this wait.
    RetryIn(Duration),
    /// It is dead-lettered, and only then acknowledged.
    DeadLetter(Reason),
}

/// Why an event is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The handler said that this event will never succeed.
    #[serde(rename = "refused-by-handler")]
    Refused,
    /// The last attempt failed like those before it.
    #[serde(rename = "attempts-used-up")]
    AttemptsUsedUp,
    /// What is stored is not a CloudEvent.
    #[serde(rename = "invalid-event")]
    Invalid,
    /// It was delivered far more often than the policy allows, and no one lived to say how it went.
    #[serde(rename = "never-finished")]
    NeverFinished,
    /// It was handled, but what the handler answered can never be published as its reply.
    #[serde(rename = "reply-refused")]
    ReplyRefused,
    /// It was handled, but has been passed on too often for a further reply.
    #[serde(rename = "too-many-hops")]
    TooManyHops,
    /// To find out whether it matches the filter is too much work.
    #[serde(rename = "filter-too-costly")]
    FilterTooCostly,
    /// It was stored too long ago.
    #[serde(rename = "too-old")]
    TooOld,
}

impl Reason {
    /// The reason's stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused-by-handler",
            Self::AttemptsUsedUp => "attempts-used-up",
            Self::Invalid => "invalid-event",
            Self::NeverFinished => "never-finished",
            Self::ReplyRefused => "reply-refused",
            Self::TooManyHops => "too-many-hops",
            Self::FilterTooCostly => "filter-too-costly",
            Self::TooOld => "too-old",
        }
    }
}

/// Decides. `counted` is the number of attempts that count, this one included, unless an outage is to blame for it;
/// `random` is in `0.0..1.0`.
pub fn decide(answer: &Answer, class: Class, counted: u32, blame: Blame, policy: &Retry, random: f64) -> Decision {
    let wait = match (class, blame) {
        (Class::Success, _) => return Decision::Acknowledge,
        (Class::Final, _) => return Decision::DeadLetter(Reason::Refused),
        (Class::Retryable, Blame::Event) if counted >= policy.max_attempts => {
            return Decision::DeadLetter(Reason::AttemptsUsedUp);
        }
        (Class::Retryable, Blame::Event) => {
            let Retry { initial, max, factor, jitter, .. } = *policy;
            Backoff { initial, max, factor, jitter }.wait(counted, random)
        }
        (Class::Retryable, Blame::Handler(lasted)) => (lasted / OUTAGE_SHARE).min(MAX_OUTAGE_WAIT).max(policy.initial),
    };
    Decision::RetryIn(wait.max(answer.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER)))
}

/// Whether so many deliveries without a trace are beyond every explanation but one: the event ends the pod (so that
/// no one could count a failure). What a drain gives back leaves no trace either, so the bound is well above the
/// policy's.
pub fn never_finishes(untraced: u32, policy: &Retry) -> bool {
    untraced > policy.max_attempts.saturating_mul(2).saturating_add(10)
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date in one of the three forms of section 5.6.7. It asks for
/// at most [`MAX_RETRY_AFTER`], and for nothing with a date that is over. What is neither is ignored, and of several
/// values the longest counts.
pub fn retry_after<'a>(values: impl Iterator<Item = &'a [u8]>, now: SystemTime) -> Option<Duration> {
    values.filter_map(|value| retry_after_of(value, now)).max()
}

fn retry_after_of(value: &[u8], now: SystemTime) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let asked = if is_number {
        // More digits than fit are valid, too.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

fn is_usually_retried(code: StatusCode) -> bool {
    code.is_server_error()
        || matches!(code, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
