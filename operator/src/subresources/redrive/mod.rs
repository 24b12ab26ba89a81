//! Gives dead letters that are named to their handler again, for whoever may.
//!
//! The same copies as those of `spec.redrive` ([`crate::handler::redrive`]), so that a letter that both give to a handler that
//! has not changed in between is published once. Nothing is remembered between calls: a letter is there until its copy is
//! confirmed, and the handler is looked at again before it goes ([`letters`]). A call ends in time to be answered, and says
//! what it left ([`report`]): one that is repeated continues there.

mod letters;
mod report;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use kube::ResourceExt as _;
use serde::Deserialize;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::kind;
use tokio::time::Instant;

use super::Calls;
use super::access::Target;
use super::answer::Refusal;
use super::calls::{FEWER_SEQUENCES, Place, bounded, log};
use crate::handler::relocation;
use crate::https::front_proxy::User;
use letters::{Run, Times};

/// Sequences in a call at most.
const MAX_SEQUENCES: usize = 500;
/// No letter is begun after this time of a call.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// And what was begun ends within this one. Below what a call may take in all, so that it is answered.
const END_WITHIN: Duration = Duration::from_secs(17);

/// What is to be redriven.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    sequences: Vec<u64>,
}

/// Redrives the dead letters whose sequences are named.
pub(super) async fn redrive(
    State(calls): State<Calls>,
    Extension(user): Extension<User>,
    Path((namespace, name)): Place,
    body: Bytes,
) -> Response {
    let begun = Instant::now();
    let target = Target { namespace, resource: "eventhandlers", name, subresource: "redrive" };
    let answered = bounded(FEWER_SEQUENCES, async {
        calls.admit(&user, "create", &target).await?;
        let sequences = sequences(&body).map_err(Refusal::bad_request)?;
        // Not of the reads' turns: a redrive is longer than they wait for one.
        let _permit = Arc::clone(&calls.redrives).try_acquire_owned().map_err(|_| Refusal::busy("redrives"))?;
        let handler = calls.locator.handler(&target.namespace, &target.name).await?;
        is_subscribed(&handler.resource)?;
        let times = Times { begin: begun + BEGIN_WITHIN, end: begun + END_WITHIN };
        let report = Run::new(&calls.locator, &handler, times).all(&sequences).await?;
        let redriven = report.redriven;
        Ok((Json(report).into_response(), redriven))
    });
    log(&user, "create", &target, answered.await)
}

fn sequences(body: &[u8]) -> Result<Vec<u64>, String> {
    let request: Request = serde_json::from_slice(body)
        .map_err(|error| format!("the body must be like {{\"sequences\": [1, 2]}}: {error}"))?;
    let mut sequences = request.sequences;
    sequences.sort_unstable();
    sequences.dedup();
    if sequences.is_empty() || sequences.len() > MAX_SEQUENCES {
        return Err(format!("name 1 to {MAX_SEQUENCES} dead letters in sequences"));
    }
    Ok(sequences)
}

/// Whether its consumers are those of its present specification, which says what they read, and where. The condition is of that
/// generation only if a reconcile came so far: what a failed one kept is of the one before.
fn is_subscribed(handler: &EventHandler) -> Result<(), Refusal> {
    let name = handler.name_any();
    if handler.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::conflict(format!(
            "EventHandler {name} is being deleted: its dead letters stay, for a handler of its name"
        )));
    }
    if relocation::awaits_replay(handler) {
        return Err(Refusal::unavailable(format!(
            "EventHandler {name} is asked to continue elsewhere in its topic (spec.replay), which may pass over what is redriven before: try again when status.replay says that it has ended (kubectl describe eventhandler {name})"
        )));
    }
    let conditions = handler.status.iter().flat_map(|status| &status.conditions);
    let is_now = conditions.into_iter().any(|known| {
        known.type_ == kind::SUBSCRIBED
            && known.status == "True"
            && known.observed_generation == handler.metadata.generation
    });
    if is_now {
        return Ok(());
    }
    Err(Refusal::unavailable(format!(
        "EventHandler {name} is not Subscribed as it is written now, so nothing would read what is redriven: try again when it is (kubectl describe eventhandler {name})"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_redriven_for_consumers_of_another_specification_or_before_a_replay() {
        let handler = |generation: i64, spec: Option<&str>, status: Option<(&str, &str)>| -> EventHandler {
            let replay = status.map(|(request, phase)| json!({"request": request, "phase": phase, "count": 1}));
            serde_json::from_value(json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": "billing", "generation": 3},
                "spec": {
                    "topic": "orders", "template": {},
                    "replay": spec.map(|request| json!({"request": request, "from": "Latest"})),
                },
                "status": {
                    "replay": replay,
                    "conditions": [{
                        "type": "Subscribed", "status": "True", "reason": "Subscribed", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": generation,
                    }],
                },
            }))
            .unwrap()
        };
        for (generation, spec, status, may) in [
            (3, None, None, true),
            (2, None, None, false),
            (3, Some("again"), None, false),
            (3, Some("again"), Some(("before", "Done")), false),
            (3, Some("again"), Some(("again", "Stopping")), false),
            (3, Some("again"), Some(("again", "Moving")), false),
            (3, Some("again"), Some(("again", "Done")), true),
            (3, Some("again"), Some(("again", "Refused")), true),
            (3, None, Some(("again", "Done")), true),
        ] {
            let found = is_subscribed(&handler(generation, spec, status));
            assert_eq!(found.is_ok(), may, "{generation} {spec:?} {status:?}");
        }
    }

    #[test]
    fn a_body_names_letters_within_bounds() {
        assert_eq!(sequences(br#"{"sequences": [2, 1, 2]}"#).unwrap(), [1, 2]);
        assert_eq!(sequences(br#"{"kind": "DeadLetterRedrive", "sequences": [1]}"#).unwrap(), [1]);
        let many = json!({"sequences": (0..501).collect::<Vec<u64>>()}).to_string();
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"sequences": []}"#,
            r#"{"sequences": [-1]}"#,
            r#"{"sequences": [1], "all": true}"#,
            &many,
        ] {
            assert!(sequences(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
