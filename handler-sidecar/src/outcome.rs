//! What becomes of an event after an attempt. Pure: answer, attempt and policy in, decision out.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tidegate_broker_client::contract::Retry;

use crate::backoff::Backoff;

/// No `Retry-After` keeps an event away longer.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

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

/// What to do with the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// It is handled.
    Acknowledge,
    /// The broker keeps it and gives it to somebody after this wait.
    RetryIn(Duration),
    /// It is kept aside, and only then acknowledged.
    DeadLetter(Reason),
}

/// Why an event is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The handler said that this event will never succeed.
    Refused,
    /// The last attempt failed like those before it.
    AttemptsUsedUp,
    /// What is stored is not a CloudEvent.
    Invalid,
    /// It was delivered far more often than the policy allows, and nobody lived to say how it went.
    NeverFinished,
}

impl Reason {
    /// The reason's stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused-by-handler",
            Self::AttemptsUsedUp => "attempts-used-up",
            Self::Invalid => "invalid-event",
            Self::NeverFinished => "never-finished",
        }
    }
}

/// Decides. `attempt` is the number of this delivery, the first is 1; `random` is in `0.0..1.0`.
pub fn decide(answer: &Answer, attempt: u32, policy: &Retry, random: f64) -> Settle {
    let retry_after = match answer {
        Answer::Status { code, .. } if code.is_success() => return Settle::Acknowledge,
        Answer::Status { code, .. } if !may_succeed_later(*code) => return Settle::DeadLetter(Reason::Refused),
        Answer::Status { retry_after, .. } => *retry_after,
        Answer::Timeout(_) | Answer::Broken(_) => None,
    };
    if attempt >= policy.max_attempts {
        return Settle::DeadLetter(Reason::AttemptsUsedUp);
    }
    let backoff = Backoff { initial: policy.initial, max: policy.max, factor: policy.factor, jitter: policy.jitter };
    let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    Settle::RetryIn(backoff.wait(attempt, random).max(asked))
}

/// Whether an event that comes with this attempt number is beyond every explanation but one: its delivery
/// ends the pod (so that nobody could count a failure). Events that were given back undelivered (a drain, a
/// handler that was down) also have higher numbers, so the bound is well above the policy's.
pub fn never_finishes(attempt: u32, policy: &Retry) -> bool {
    attempt > policy.max_attempts.saturating_mul(2).saturating_add(10)
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value).ok().map(|date| date.duration_since(now).unwrap_or_default())
}

fn may_succeed_later(code: StatusCode) -> bool {
    code.is_server_error()
        || matches!(code, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Retry {
        Retry {
            max_attempts: 3,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            factor: 2.0,
            jitter: 0.0,
        }
    }

    fn status(code: u16) -> Answer {
        Answer::Status { code: StatusCode::from_u16(code).unwrap(), retry_after: None, text: String::new() }
    }

    #[test]
    fn by_status() {
        let again = Settle::RetryIn(Duration::from_secs(1));
        let refused = Settle::DeadLetter(Reason::Refused);
        for (code, expected) in [
            (200, Settle::Acknowledge),
            (202, Settle::Acknowledge),
            (204, Settle::Acknowledge),
            (299, Settle::Acknowledge),
            (101, refused),
            (301, refused),
            (307, refused),
            (400, refused),
            (404, refused),
            (408, again),
            (410, refused),
            (425, again),
            (429, again),
            (500, again),
            (501, again),
            (503, again),
            (599, again),
            (600, refused),
        ] {
            assert_eq!(decide(&status(code), 1, &policy(), 0.5), expected, "{code}");
        }
    }

    #[test]
    fn three_attempts_are_three_deliveries() {
        for answer in [status(500), Answer::Timeout(Duration::from_secs(1)), Answer::Broken("reset".into())] {
            let settled: Vec<_> = (1..=4).map(|attempt| decide(&answer, attempt, &policy(), 0.5)).collect();
            assert_eq!(
                settled,
                [
                    Settle::RetryIn(Duration::from_secs(1)),
                    Settle::RetryIn(Duration::from_secs(2)),
                    Settle::DeadLetter(Reason::AttemptsUsedUp),
                    Settle::DeadLetter(Reason::AttemptsUsedUp),
                ]
            );
        }
    }

    #[test]
    fn what_the_handler_asks_for_is_the_least_and_has_a_bound() {
        let asked = |seconds| Answer::Status {
            code: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(Duration::from_secs(seconds)),
            text: String::new(),
        };
        assert_eq!(decide(&asked(0), 2, &policy(), 0.5), Settle::RetryIn(Duration::from_secs(2)));
        assert_eq!(decide(&asked(90), 1, &policy(), 0.5), Settle::RetryIn(Duration::from_secs(90)));
        assert_eq!(decide(&asked(1_000_000), 1, &policy(), 0.5), Settle::RetryIn(LONGEST_RETRY_AFTER));
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn given_back_events_are_not_mistaken_for_killers() {
        assert!(!never_finishes(16, &policy()));
        assert!(never_finishes(17, &policy()));
        assert!(!never_finishes(u32::MAX, &Retry { max_attempts: u32::MAX, ..policy() }));
    }

    proptest! {
        #[test]
        fn only_success_acknowledges(code in 100u16..1000, attempt in 1u32..10, random in 0.0..1.0f64) {
            let settled = decide(&status(code), attempt, &policy(), random);
            prop_assert_eq!(settled == Settle::Acknowledge, (200..300).contains(&code));
        }

        #[test]
        fn nothing_is_retried_for_ever(code in 300u16..1000, attempt in 3u32.., random in 0.0..1.0f64) {
            prop_assert!(matches!(decide(&status(code), attempt, &policy(), random), Settle::DeadLetter(_)));
        }
    }
}
