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
/// An event that failed while the handler as a whole did waits for this part of the outage, so that others try it first.
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
pub enum Settle {
    /// It is handled.
    Acknowledge,
    /// The broker keeps it and gives it to somebody after this wait.
    RetryIn(Duration),
    /// It is kept aside, and only then acknowledged.
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
    /// It was delivered far more often than the policy allows, and nobody lived to say how it went.
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
pub fn decide(answer: &Answer, class: Class, counted: u32, blame: Blame, policy: &Retry, random: f64) -> Settle {
    let wait = match (class, blame) {
        (Class::Success, _) => return Settle::Acknowledge,
        (Class::Final, _) => return Settle::DeadLetter(Reason::Refused),
        (Class::Retryable, Blame::Event) if counted >= policy.max_attempts => {
            return Settle::DeadLetter(Reason::AttemptsUsedUp);
        }
        (Class::Retryable, Blame::Event) => {
            let Retry { initial, max, factor, jitter, .. } = *policy;
            Backoff { initial, max, factor, jitter }.wait(counted, random)
        }
        (Class::Retryable, Blame::Handler(lasted)) => (lasted / OUTAGE_SHARE).min(MAX_OUTAGE_WAIT).max(policy.initial),
    };
    Settle::RetryIn(wait.max(answer.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER)))
}

/// Whether so many deliveries without a trace are beyond every explanation but one: the event ends the pod (so that
/// nobody could count a failure). What a drain gives back leaves no trace either, so the bound is well above the
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
            statuses: StatusRules::default(),
        }
    }

    fn status(code: u16) -> Answer {
        Answer::Status { code: StatusCode::from_u16(code).unwrap(), retry_after: None, text: String::new() }
    }

    /// After an attempt that is the event's fault, if it failed.
    fn decide(answer: &Answer, counted: u32, policy: &Retry, random: f64) -> Settle {
        super::decide(answer, answer.class(&policy.statuses), counted, Blame::Event, policy, random)
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
    fn the_policy_says_which_statuses_are_final() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let statuses = StatusRules { retried: parse(&["404", "409", "3xx"]), final_: parse(&["429", "5xx"]) };
        let class = |answer: Answer| answer.class(&statuses);
        for (code, expected) in [
            (200, Class::Success),
            (404, Class::Retryable),
            (409, Class::Retryable),
            (302, Class::Retryable),
            (400, Class::Final),
            (408, Class::Retryable),
            (429, Class::Final),
            (500, Class::Final),
            (503, Class::Final),
            (101, Class::Final),
            (600, Class::Final),
        ] {
            assert_eq!(class(status(code)), expected, "{code}");
        }
        assert_eq!(class(Answer::Broken("reset".into())), Class::Retryable);
        let policy = Retry { statuses: statuses.clone(), ..policy() };
        assert_eq!(decide(&status(404), 1, &policy, 0.5), Settle::RetryIn(Duration::from_secs(1)));
        assert_eq!(decide(&status(404), 3, &policy, 0.5), Settle::DeadLetter(Reason::AttemptsUsedUp));
        assert_eq!(decide(&status(503), 1, &policy, 0.5), Settle::DeadLetter(Reason::Refused));
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
        assert_eq!(decide(&asked(1_000_000), 1, &policy(), 0.5), Settle::RetryIn(MAX_RETRY_AFTER));
    }

    #[test]
    fn an_outage_uses_up_no_attempts() {
        for (lasted, asked, expected) in [
            (0, None, 1),
            (40, None, 10),
            (40, Some(120), 120),
            (40, Some(7), 10),
            (100_000, None, 60),
            (100_000, Some(1_000_000), 3600),
        ] {
            let code = StatusCode::SERVICE_UNAVAILABLE;
            let answer = Answer::Status { code, retry_after: asked.map(Duration::from_secs), text: String::new() };
            let blame = Blame::Handler(Duration::from_secs(lasted));
            let settle = super::decide(&answer, answer.class(&StatusRules::default()), u32::MAX, blame, &policy(), 0.5);
            assert_eq!(settle, Settle::RetryIn(Duration::from_secs(expected)), "{lasted} {asked:?}");
        }
        let patient = Retry { initial: Duration::from_secs(300), ..policy() };
        let settle = super::decide(&status(500), Class::Retryable, 1, Blame::Handler(Duration::ZERO), &patient, 0.5);
        assert_eq!(settle, Settle::RetryIn(Duration::from_secs(300)), "the first wait is respected");
    }

    #[test]
    fn retry_after_in_all_forms_and_none() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (values, expected) in [
            (&["120"][..], Some(120)),
            (&[" 7 "], Some(7)),
            (&["0"], Some(0)),
            (&["31536000"], Some(3600)),
            (&["99999999999999999999999999"], Some(3600)),
            (&["Sun, 06 Nov 1994 08:50:07 GMT"], Some(30)),
            (&["Sunday, 06-Nov-94 08:50:07 GMT"], Some(30)),
            (&["Sun Nov  6 08:50:07 1994"], Some(30)),
            (&["Sun, 06 Nov 1994 08:00:00 GMT"], Some(0)),
            (&["Mon, 06 Nov 1995 08:49:37 GMT"], Some(3600)),
            (&["-1"], None),
            (&["+5"], None),
            (&["1.5"], None),
            (&["1e3"], None),
            (&["5, 7"], None),
            (&["soon"], None),
            (&["\u{663}"], None),
            (&[""], None),
            (&[], None),
            (&["5", "7", "soon"], Some(7)),
            (&["-1", "Sun, 06 Nov 1994 08:00:00 GMT"], Some(0)),
        ] {
            let found = retry_after(values.iter().map(|value| value.as_bytes()), now);
            assert_eq!(found, expected.map(Duration::from_secs), "{values:?}");
        }
        assert_eq!(retry_after([&b"\xff\xfe"[..]].into_iter(), now), None);
    }

    #[test]
    fn given_back_events_are_not_mistaken_for_killers() {
        assert!(!never_finishes(16, &policy()));
        assert!(never_finishes(17, &policy()));
        assert!(!never_finishes(u32::MAX, &Retry { max_attempts: u32::MAX, ..policy() }));
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let retry_after = proptest::option::of((0u64..100_000).prop_map(Duration::from_secs));
        prop_oneof![
            4 => (100u16..1000, retry_after).prop_map(|(code, retry_after)| Answer::Status {
                code: StatusCode::from_u16(code).unwrap(),
                retry_after,
                text: String::new(),
            }),
            1 => Just(Answer::Timeout(Duration::from_secs(1))),
            1 => Just(Answer::Broken("reset".into())),
        ]
    }

    fn any_policy() -> impl Strategy<Value = Retry> {
        (1u32..100, 1u64..10_000, 1u64..100_000, 1.0..10.0f64, 0.0..=1.0f64).prop_map(
            |(max_attempts, initial, max, factor, jitter)| Retry {
                max_attempts,
                initial: Duration::from_millis(initial),
                max: Duration::from_millis(max),
                factor,
                jitter,
                statuses: StatusRules::default(),
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_bounded(value: Vec<u8>) {
            let asked = retry_after([value.as_slice()].into_iter(), SystemTime::now());
            prop_assert!(asked.is_none_or(|asked| asked <= MAX_RETRY_AFTER));
        }

        /// Any handler, any policy: only a success acknowledges, there are never more attempts than asked for, and
        /// every wait is at least what the handler asks for and at most the longest.
        #[test]
        fn an_events_way(
            answers in proptest::collection::vec(any_answer(), 120), policy in any_policy(), random in 0.0..1.0f64,
        ) {
            let mut attempts = 0;
            for (answer, attempt) in answers.iter().zip(1u32..) {
                attempts = attempt;
                let success = matches!(answer, Answer::Status { code, .. } if code.is_success());
                let asked = match answer {
                    Answer::Status { retry_after, .. } => retry_after.unwrap_or_default().min(MAX_RETRY_AFTER),
                    _ => Duration::ZERO,
                };
                match decide(answer, attempt, &policy, random) {
                    Settle::Acknowledge => {
                        prop_assert!(success);
                        break;
                    }
                    Settle::DeadLetter(reason) => {
                        let last = attempt == policy.max_attempts;
                        let refused = matches!(answer, Answer::Status { code, .. } if !is_usually_retried(*code));
                        prop_assert_eq!(reason == Reason::Refused, refused);
                        prop_assert!(!success && (refused || last));
                        break;
                    }
                    Settle::RetryIn(wait) => {
                        prop_assert!(!success && attempt < policy.max_attempts);
                        prop_assert!(wait >= asked && wait <= asked.max(policy.max));
                    }
                }
            }
            prop_assert!(attempts <= policy.max_attempts);
        }
    }
}
