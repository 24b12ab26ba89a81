//! What a call that redrives says: `DeadLetterRedrive`.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Value, json};

use crate::subresources::answer::Refusal;
use crate::subresources::{GROUP, VERSION};

/// The answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    kind: &'static str,
    api_version: String,
    metadata: Value,
    /// How many were redriven.
    pub(super) redriven: usize,
    /// What became of each that was dealt with, in the order of their sequences.
    items: Vec<Item>,
    /// Sequences of the others: what the next call is for.
    left: Vec<u64>,
    /// Why there are others.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The same in words, and what can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What became of a letter.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    sequence: u64,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    Redriven,
    Gone,
    Stays,
}

/// Why a letter stays one, however often it is asked for.
pub(super) enum Stay {
    /// It cannot be handled.
    NoEvent,
    /// No consumer of the handler would read it.
    OtherType,
    /// The broker will never take it, for this reason.
    Refused(String),
}

/// Why a call ends before all letters were dealt with.
#[derive(Debug)]
pub(super) enum Cause {
    /// A call is answered in bounded time.
    OutOfTime,
    /// The handler has another specification than when the call began.
    HandlerChanged,
    /// The handler is not there any more, or is another one.
    HandlerDeleted,
    /// The broker or the API server did not answer, or refused.
    Away(Refusal),
}

impl Report {
    /// `stopped`: why it ended early, if it did.
    pub(super) fn new(handler: &str, sequences: &[u64], mut items: Vec<Item>, stopped: Option<Cause>) -> Self {
        items.sort_unstable_by_key(|item| item.sequence);
        let settled: HashSet<u64> = items.iter().map(|item| item.sequence).collect();
        let left: Vec<u64> = sequences.iter().copied().filter(|sequence| !settled.contains(sequence)).collect();
        Self {
            kind: "DeadLetterRedrive",
            api_version: format!("{GROUP}/{VERSION}"),
            metadata: json!({}),
            redriven: items.iter().filter(|item| item.outcome == Outcome::Redriven).count(),
            items,
            reason: stopped.as_ref().map(Cause::reason),
            message: stopped.map(|cause| cause.message(handler, left.len())),
            left,
        }
    }
}

impl Item {
    pub(super) fn redriven(sequence: u64, was_known: bool) -> Self {
        let known = || "its copy was there already, from an earlier call".to_owned();
        Self { sequence, outcome: Outcome::Redriven, reason: None, message: was_known.then(known) }
    }

    pub(super) fn gone(sequence: u64) -> Self {
        Self { sequence, outcome: Outcome::Gone, reason: None, message: None }
    }

    pub(super) fn stays(sequence: u64, why: Stay) -> Self {
        let (reason, message) = match why {
            Stay::NoEvent => ("NoEvent", "it is no CloudEvent".to_owned()),
            Stay::OtherType => (
                "OtherType",
                "filter.types of the handler does not name its type: no consumer would read it".to_owned(),
            ),
            Stay::Refused(why) => ("Refused", format!("the broker does not take it: {why}")),
        };
        Self { sequence, outcome: Outcome::Stays, reason: Some(reason), message: Some(message) }
    }
}

impl Cause {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::OutOfTime => "OutOfTime",
            Self::HandlerChanged => "HandlerChanged",
            Self::HandlerDeleted => "HandlerDeleted",
            Self::Away(_) => "Unavailable",
        }
    }

    fn message(&self, handler: &str, left: usize) -> String {
        match self {
            Self::OutOfTime => format!("there was no time for {left} dead letters: repeat the call with left"),
            Self::HandlerChanged => format!(
                "EventHandler {handler} was changed meanwhile, and may not read what is redriven for it as it was, so {left} dead letters stay: repeat the call with left when it is Subscribed (kubectl wait eventhandler {handler} --for=condition=Subscribed)"
            ),
            Self::HandlerDeleted => format!(
                "EventHandler {handler} was deleted meanwhile, so {left} dead letters stay: a handler of its name can redrive them"
            ),
            Self::Away(refusal) => format!("{left} dead letters stay for now: {}", refusal.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_with_its_reason() {
        let items = vec![Item::redriven(4, true), Item::stays(2, Stay::OtherType), Item::gone(1)];
        let report = Report::new("billing", &[1, 2, 3, 4, 5], items, Some(Cause::HandlerChanged));
        let said = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&said["redriven"], &said["left"], &said["reason"]),
            (&json!(1), &json!([3, 5]), &json!("HandlerChanged"))
        );
        let items = [("gone", Value::Null), ("stays", json!("OtherType")), ("redriven", Value::Null)];
        for (item, (outcome, reason)) in said["items"].as_array().unwrap().iter().zip(items) {
            assert_eq!((&item["outcome"], &item["reason"]), (&json!(outcome), &reason), "{item}");
        }
        let message = said["message"].as_str().unwrap();
        assert!(message.contains("2 dead letters stay") && message.contains("kubectl wait"), "{message}");

        let whole = serde_json::to_value(Report::new("billing", &[1], vec![Item::gone(1)], None)).unwrap();
        assert_eq!((&whole["left"], whole.get("reason"), whole.get("message")), (&json!([]), None, None));
    }
}
