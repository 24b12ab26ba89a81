//! The condition `Delivering`, and what else a handler's status shows of its deliveries. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidegate_broker_client::outcomes::{Failure, OUTCOME_WINDOW};
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::handler::LastFailure;

use crate::sessions::deliveries::{Deliveries, LetterWarning};

const WINDOW_MINUTES: u64 = OUTCOME_WINDOW.as_secs() / 60;

/// What the condition says; `before` is what it said, and `generation` what it is about now.
///
/// While there is nothing new to say, what was said of this generation stays: a handler that refused all its events has
/// nothing left to do, may be scaled to zero and is no better for it. A change of the specification is another chance.
pub fn finding(reported: Option<&Deliveries>, before: &[Condition], generation: Option<i64>) -> Finding {
    let new = |status, reason: &str, message: String| Finding::new(kind::DELIVERING, status, reason, message);
    let Some(deliveries) = reported.filter(|deliveries| deliveries.pods > 0) else {
        let known =
            before.iter().find(|known| known.type_ == kind::DELIVERING && known.observed_generation == generation);
        return match known.map(|known| (known.status.as_str(), known)) {
            Some(("False", known)) => new(Status::False, &known.reason, known.message.clone()),
            Some(("True", known)) => new(Status::True, &known.reason, known.message.clone()),
            _ => new(Status::Unknown, "NothingDelivered", "no event has been delivered yet".into()),
        };
    };
    let Deliveries { pods, failing, events, handled, refused, failed, .. } = deliveries;
    let last = deliveries.last_failure.as_ref();
    let last = last.map(|last| format!(": {}{}", describe(last), remedy(last.status))).unwrap_or_default();
    let counts = format!(
        "in the last {WINDOW_MINUTES} minutes {handled} events were handled, {refused} were refused and {failed} attempts failed"
    );
    if deliveries.are_failing() {
        let (reason, how) =
            if deliveries.refused_only { ("Refused", "refused") } else { ("Failing", "refused or failed") };
        let message = match events {
            0 => format!("{counts}{last}"),
            1 => format!("the last event was {how}{last}"),
            events => format!("the last {events} events were {how}{last}"),
        };
        return new(Status::False, reason, message);
    }
    match failing {
        0 => new(Status::True, "Delivering", "events are handled".into()),
        _ => new(Status::True, "PartlyDelivering", format!("{failing} of {pods} pods fail; {counts}{last}")),
    }
}

/// What its owner can look at.
fn remedy(status: Option<u16>) -> &'static str {
    match status {
        Some(404 | 405) => ". Is delivery.path the one that the program takes events at, and is it the right image?",
        Some(415) => ". Does the program take what delivery.format sends?",
        Some(400..=499) => ". The program refuses the events: its log may say why",
        Some(500..) => ". The program fails: its log may say why",
        _ => "",
    }
}

/// What happened, and where: `404 Not Found from POST http://127.0.0.1:8080/`.
fn describe(failure: &Failure) -> String {
    let Failure { error, url, .. } = failure;
    let error = error.trim_end_matches([':', ' ']);
    if url.is_empty() { error.to_owned() } else { format!("{error} from POST {url}") }
}

/// As the status shows it.
pub fn last_failure(failure: Failure) -> LastFailure {
    let Failure { time, event_id, event_type, status, error, url } = failure;
    LastFailure { time, event_id, event_type, status: status.map(i32::from), error, url }
}

/// The note of the Event about new dead letters.
pub fn warning(warning: &LetterWarning) -> String {
    let letters = match warning.letters {
        1 => "an event became a dead letter".to_owned(),
        letters => format!("{letters} events became dead letters"),
    };
    match &warning.last_failure {
        Some(last) => {
            let (id, event_type) = (&last.event_id, &last.event_type);
            format!("{letters}; the last failure is that of event {id:?} of type {event_type:?}: {}", describe(last))
        }
        None => letters,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_crds::conditions::merge;

    use super::*;

    fn refusal() -> Failure {
        Failure {
            time: "2026-01-01T00:00:00Z".into(),
            event_id: "17".into(),
            event_type: "order.new".into(),
            status: Some(404),
            error: "404 Not Found: ".into(),
            url: "http://127.0.0.1:8080/".into(),
        }
    }

    fn failing(events: u64, refused_only: bool) -> Deliveries {
        let refused = events;
        Deliveries { pods: 1, failing: 1, events, refused_only, refused, last_failure: Some(refusal()), ..fine() }
    }

    fn fine() -> Deliveries {
        Deliveries { pods: 2, ..Deliveries::default() }
    }

    #[test]
    fn it_says_what_happened_and_where() {
        let partly = Deliveries { pods: 2, handled: 7, ..failing(5, true) };
        for (what, reported, status, reason, message) in [
            ("no report", None, Status::Unknown, "NothingDelivered", "no event has been delivered yet"),
            (
                "nothing yet",
                Some(Deliveries::default()),
                Status::Unknown,
                "NothingDelivered",
                "no event has been delivered yet",
            ),
            ("all is well", Some(fine()), Status::True, "Delivering", "events are handled"),
            (
                "all are refused",
                Some(failing(20, true)),
                Status::False,
                "Refused",
                "the last 20 events were refused: 404 Not Found from POST http://127.0.0.1:8080/. Is delivery.path the one \
                 that the program takes events at, and is it the right image?",
            ),
            (
                "one is refused",
                Some(failing(1, true)),
                Status::False,
                "Refused",
                "the last event was refused: 404 Not Found from POST http://127.0.0.1:8080/. Is delivery.path the one \
                 that the program takes events at, and is it the right image?",
            ),
            (
                "some fail",
                Some(failing(5, false)),
                Status::False,
                "Failing",
                "the last 5 events were refused or failed: 404 Not Found from POST http://127.0.0.1:8080/. Is delivery.path \
                 the one that the program takes events at, and is it the right image?",
            ),
            (
                "one pod of two",
                Some(partly),
                Status::True,
                "PartlyDelivering",
                "1 of 2 pods fail; in the last 5 minutes 7 events were handled, 5 were refused and 0 attempts failed: \
                 404 Not Found from POST http://127.0.0.1:8080/. Is delivery.path the one that the program takes events \
                 at, and is it the right image?",
            ),
        ] {
            let expected = Finding::new(kind::DELIVERING, status, reason, message);
            assert_eq!(finding(reported.as_ref(), &[], Some(1)), expected, "{what}");
        }
    }

    #[test]
    fn what_was_said_stays_until_there_is_something_new_or_another_specification() {
        for deliveries in [failing(5, true), fine()] {
            let said = finding(Some(&deliveries), &[], Some(1));
            let before = merge(vec![said.clone()], &[], Some(1), jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(finding(None, &before, Some(1)), said);
            assert_eq!(finding(Some(&Deliveries::default()), &before, Some(1)), said);
            assert_eq!(finding(None, &before, Some(2)).status, Status::Unknown);
        }
    }

    #[test]
    fn a_warning_names_an_event() {
        let note = warning(&LetterWarning { letters: 3, last_failure: Some(refusal()) });
        assert_eq!(
            note,
            "3 events became dead letters; the last failure is that of event \"17\" of type \"order.new\": \
             404 Not Found from POST http://127.0.0.1:8080/"
        );
        assert_eq!(warning(&LetterWarning { letters: 1, last_failure: None }), "an event became a dead letter");
    }
}
