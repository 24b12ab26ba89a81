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
fn decide(answer: &Answer, counted: u32, policy: &Retry, random: f64) -> Decision {
    super::decide(answer, answer.class(&policy.statuses), counted, Blame::Event, policy, random)
}

#[test]
fn by_status() {
    let again = Decision::RetryIn(Duration::from_secs(1));
    let refused = Decision::DeadLetter(Reason::Refused);
    for (code, expected) in [
        (200, Decision::Acknowledge),
        (202, Decision::Acknowledge),
        (204, Decision::Acknowledge),
        (299, Decision::Acknowledge),
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
    assert_eq!(decide(&status(404), 1, &policy, 0.5), Decision::RetryIn(Duration::from_secs(1)));
    assert_eq!(decide(&status(404), 3, &policy, 0.5), Decision::DeadLetter(Reason::AttemptsUsedUp));
    assert_eq!(decide(&status(503), 1, &policy, 0.5), Decision::DeadLetter(Reason::Refused));
}

#[test]
fn three_attempts_are_three_deliveries() {
    for answer in [status(500), Answer::Timeout(Duration::from_secs(1)), Answer::Broken("reset".into())] {
        let settled: Vec<_> = (1..=4).map(|attempt| decide(&answer, attempt, &policy(), 0.5)).collect();
        assert_eq!(
            settled,
            [
                Decision::RetryIn(Duration::from_secs(1)),
                Decision::RetryIn(Duration::from_secs(2)),
                Decision::DeadLetter(Reason::AttemptsUsedUp),
                Decision::DeadLetter(Reason::AttemptsUsedUp),
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
    assert_eq!(decide(&asked(0), 2, &policy(), 0.5), Decision::RetryIn(Duration::from_secs(2)));
    assert_eq!(decide(&asked(90), 1, &policy(), 0.5), Decision::RetryIn(Duration::from_secs(90)));
    assert_eq!(decide(&asked(1_000_000), 1, &policy(), 0.5), Decision::RetryIn(MAX_RETRY_AFTER));
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
        assert_eq!(settle, Decision::RetryIn(Duration::from_secs(expected)), "{lasted} {asked:?}");
    }
    let patient = Retry { initial: Duration::from_secs(300), ..policy() };
    let settle = super::decide(&status(500), Class::Retryable, 1, Blame::Handler(Duration::ZERO), &patient, 0.5);
    assert_eq!(settle, Decision::RetryIn(Duration::from_secs(300)), "the first wait is respected");
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
                Decision::Acknowledge => {
                    prop_assert!(success);
                    break;
                }
                Decision::DeadLetter(reason) => {
                    let last = attempt == policy.max_attempts;
                    let refused = matches!(answer, Answer::Status { code, .. } if !is_usually_retried(*code));
                    prop_assert_eq!(reason == Reason::Refused, refused);
                    prop_assert!(!success && (refused || last));
                    break;
                }
                Decision::RetryIn(wait) => {
                    prop_assert!(!success && attempt < policy.max_attempts);
                    prop_assert!(wait >= asked && wait <= asked.max(policy.max));
                }
            }
        }
        prop_assert!(attempts <= policy.max_attempts);
    }
}
