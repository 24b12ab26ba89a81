//! Gives dead letters that are named to their handler again, for whoever may.
//!
//! The same copies as those of `spec.redrive` ([`crate::handler::redrive`]), so that a letter that both give is published
//! once. Nothing is remembered between calls: a letter is there until its copy is confirmed, and a call that is repeated
//! continues where the former one stopped.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use kube::ResourceExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_broker_admin::api::{ApiError, Missing};
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::kind;
use tokio::time::Instant;

use super::access::Target;
use super::answer::Refusal;
use super::calls::{Place, bounded, log, turn};
use super::locate::Handler;
use super::{Calls, GROUP, VERSION};
use crate::handler::redrive::{self, Copy, Pace, Published, Unfit};
use crate::https::front_proxy::User;

/// Sequences in a call at most.
const MAX_SEQUENCES: usize = 500;
/// Letters a second at most, as of `spec.redrive`.
const RATE: i32 = 100;
/// No letter is begun after this time of a call.
const REDRIVE_TIME: Duration = Duration::from_secs(10);

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
    let target = Target { namespace, resource: "eventhandlers", name, subresource: "redrive" };
    let answered = bounded(async {
        calls.admit(&user, "create", &target).await?;
        let sequences = sequences(&body).map_err(Refusal::bad_request)?;
        let _turn = turn(&calls.reads).await?;
        let handler = calls.locator.handler(&target.namespace, &target.name).await?;
        is_subscribed(&handler.resource)?;
        let results = all(&handler, &sequences).await?;
        let redriven = results.iter().filter(|result| result["outcome"] == "redriven").count();
        let left = &sequences[results.len()..];
        let answer = json!({
            "kind": "DeadLetterRedrive", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {},
            "redriven": redriven, "items": results, "left": left,
        });
        Ok((Json(answer).into_response(), redriven))
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

/// The types of an older specification say wrongly which letters have a consumer.
fn is_subscribed(handler: &EventHandler) -> Result<(), Refusal> {
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
        "EventHandler {} is not Subscribed as it is written now, so nothing would read what is redriven: try again when it is (kubectl describe eventhandler {0})",
        handler.name_any()
    )))
}

/// What became of each, in their order, as far as there was time.
async fn all(handler: &Handler, sequences: &[u64]) -> Result<Vec<Value>, Refusal> {
    let meta = &handler.resource.metadata;
    let (uid, generation) = (meta.uid.as_deref().unwrap_or_default(), meta.generation.unwrap_or_default());
    let types = handler.resource.spec.filter.as_ref().map(|filter| filter.types.as_slice()).unwrap_or_default();
    let of = redrive::Handler { name: &handler.known_as, uid, generation, types };
    let (mut pace, end) = (Pace::new(RATE), Instant::now() + REDRIVE_TIME);
    let mut results = Vec::new();
    for sequence in sequences {
        if Instant::now() >= end {
            break;
        }
        let result = match one(handler, &of, *sequence, &mut pace).await {
            Ok(result) => result,
            // What was redriven is said; the others are left, and the next call says why.
            Err(_) if !results.is_empty() => break,
            Err(refusal) => return Err(refusal),
        };
        results.push(result);
    }
    Ok(results)
}

async fn one(handler: &Handler, of: &redrive::Handler<'_>, sequence: u64, pace: &mut Pace) -> Result<Value, Refusal> {
    let stream = layout::dead_letter_stream(of.name);
    let letter = match handler.broker.api.message(&stream, sequence).await {
        Ok(letter) => letter,
        Err(ApiError::NotFound(Missing::Message)) => return Ok(json!({"sequence": sequence, "outcome": "gone"})),
        Err(error) => return Err(error.into()),
    };
    let stays = |why: &str| json!({"sequence": sequence, "outcome": "stays", "message": why});
    let copy = match Copy::of(of, &letter) {
        Ok(copy) => copy,
        Err(Unfit::NoEvent) => return Ok(stays("it is no CloudEvent")),
        Err(Unfit::OtherType) => {
            return Ok(stays("filter.types of the handler does not name its type: no consumer would read it"));
        }
    };
    pace.turn().await;
    match copy.publish(&handler.broker.api).await? {
        Published::Refused(why) => Ok(stays(&format!("the broker does not take it: {why}"))),
        Published::Confirmed(confirmed) => {
            let was_known = confirmed.was_known;
            confirmed.remove(&handler.broker.api, &stream).await?;
            let mut result = json!({"sequence": sequence, "outcome": "redriven"});
            if was_known {
                result["message"] = "its copy was there already, from an earlier call".into();
            }
            Ok(result)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
