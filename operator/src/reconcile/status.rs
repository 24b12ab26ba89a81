//! What the status of all resources has in common.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crds::broker::EventBrokerStatus;
use tidegate_crds::conditions::{Finding, HasConditions, Status, kind, merge};
use tidegate_crds::handler::{EventHandlerStatus, Position};
use tidegate_crds::topic::{EventTopicStatus, StreamRecord};

use crate::context::{Context, Owner};
use crate::handler::shelf;
use crate::kubernetes::names::FIELD_MANAGER;
use crate::reconcile::error::Error;
use crate::reconcile::pace::Turns;
use crate::reconcile::report;

/// Of a resource that no change is known to be needed for. (What else could be done, `Ready` says.)
const NOT_STALLED: &str = "no change to this resource is known to be needed";
/// On a resource: the operator's hands off it.
const PAUSED: &str = "tidegate.io/paused";

/// The reason of a part that nothing has looked at yet.
pub const NOT_REACHED: &str = "NotReached";

/// `Ready` from its parts, with kstatus's two, then the parts themselves.
pub fn summary(parts: Vec<Finding>, when_ready: &str) -> Vec<Finding> {
    let ready = match parts.iter().find(|part| !part.is_true()) {
        None => Finding::new(kind::READY, Status::True, "Ready", when_ready),
        Some(part) => Finding::new(kind::READY, Status::False, part.reason.clone(), part.message.clone()),
    };
    let holds = |condition| if condition { Status::True } else { Status::False };
    let stalled = parts.iter().find(|part| part.is_stalled);
    let is_moving = !ready.is_true() && stalled.is_none();
    let mut found = vec![
        Finding::new(kind::RECONCILING, holds(is_moving), ready.reason.clone(), ready.message.clone()),
        match stalled {
            Some(part) => Finding::new(kind::STALLED, Status::True, part.reason.clone(), part.message.clone()),
            None => Finding::new(kind::STALLED, Status::False, "Progressing", NOT_STALLED),
        },
    ];
    found.insert(0, ready);
    found.extend(parts);
    found
}

/// A rollout that waits for its turn is still to come, although all is ready as it is.
pub fn wait_for_turn(found: &mut [Finding], turns: &Turns) {
    if found.iter().any(|finding| finding.kind == kind::STALLED && finding.is_true()) {
        return;
    }
    if let Some(reconciling) = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING && !finding.is_true())
    {
        *reconciling = Finding::new(kind::RECONCILING, Status::True, "WaitingForTurn", turns.explain_wait());
    }
}

/// The conditions after an error. The parts stay as they were, of the generation that they were of: nothing says that they
/// hold for what the specification is now.
pub fn failure_findings(error: &Error, before: &[Condition], parts: &[&'static str]) -> Vec<Finding> {
    let message = error.to_string();
    let person = error.needs_a_person();
    let status = |holds| if holds { Status::True } else { Status::False };
    let mut found = vec![
        Finding::new(kind::READY, Status::False, error.reason(), message.clone()),
        Finding::new(kind::RECONCILING, status(!person), error.reason(), message.clone()),
        Finding::new(kind::STALLED, status(person), error.reason(), message),
    ];
    for part in parts {
        let known = Finding::kept(part, before);
        found.push(known.unwrap_or_else(|| Finding::new(part, Status::Unknown, NOT_REACHED, "not looked at yet")));
    }
    found
}

/// Whether the operator is to leave this resource and what was made from it as they are.
pub fn is_paused<K: Resource<DynamicType = ()>>(resource: &K) -> bool {
    resource.annotations().get(PAUSED).is_some_and(|value| value == "true")
}

/// The conditions of a resource that is paused.
pub fn paused(before: &[Condition], generation: Option<i64>) -> Vec<Condition> {
    let message =
        format!("annotation {PAUSED} is \"true\": Tidegate changes nothing here until it is removed; events flow");
    let finding = vec![Finding::new(kind::PAUSED, Status::True, "Paused", message)];
    let mut conditions: Vec<_> = before.iter().filter(|condition| condition.type_ != kind::PAUSED).cloned().collect();
    conditions.extend(merge(finding, before, generation, jiff::Timestamp::now()));
    conditions
}

/// A status of which some fields are numbers that change all the time.
pub trait Numbers {
    /// The status with the numbers of another one.
    #[must_use]
    fn with_numbers_of(&self, other: &Self) -> Self;
}

impl Numbers for EventBrokerStatus {
    fn with_numbers_of(&self, _: &Self) -> Self {
        self.clone()
    }
}

impl Numbers for EventTopicStatus {
    fn with_numbers_of(&self, other: &Self) -> Self {
        Self {
            events: count_of(self.events, other.events),
            bytes: number_of(&self.bytes, &other.bytes),
            last_sequence: number_of(&self.last_sequence, &other.last_sequence),
            dead_letters: count_of(self.dead_letters, other.dead_letters),
            fill: number_of(&self.fill, &other.fill),
            stream: self.stream.as_ref().map(|stream| with_sequences_of(stream, other.stream.as_ref())),
            ..self.clone()
        }
    }
}

impl Numbers for EventHandlerStatus {
    fn with_numbers_of(&self, other: &Self) -> Self {
        let position = self.position.as_ref().map(|position| with_acknowledged_of(position, other.position.as_ref()));
        let lag = number_of(&self.lag, &other.lag);
        let dead_letters = count_of(self.dead_letters, other.dead_letters);
        let retries = match (&self.retries, &other.retries) {
            (Some(own), Some(other)) if shelf::are_there(own) == shelf::are_there(other) => Some(other.clone()),
            (own, _) => own.clone(),
        };
        Self { lag, dead_letters, retries, position, ..self.clone() }
    }
}

/// That there is a number, or none any more, is more than a number that changed.
fn number_of<T: Clone>(own: &Option<T>, other: &Option<T>) -> Option<T> {
    if own.is_some() && other.is_some() { other.clone() } else { own.clone() }
}

/// That there are some, or none any more, is more than a count that changed.
fn count_of(own: Option<i64>, other: Option<i64>) -> Option<i64> {
    if (own == Some(0)) == (other == Some(0)) { number_of(&own, &other) } else { own }
}

/// When a stream was made and what was released of it is no number that may be late.
fn with_sequences_of(stream: &StreamRecord, other: Option<&StreamRecord>) -> StreamRecord {
    let Some(other) = other else { return stream.clone() };
    StreamRecord { first_sequence: other.first_sequence, last_sequence: other.last_sequence, ..stream.clone() }
}

/// Nor which consumers there are.
fn with_acknowledged_of(position: &Position, other: Option<&Position>) -> Position {
    let names =
        |position: &Position| position.consumers.iter().map(|consumer| consumer.name.clone()).collect::<Vec<_>>();
    match other {
        Some(other) if names(other) == names(position) => {
            Position { consumers: other.consumers.clone(), ..position.clone() }
        }
        _ => position.clone(),
    }
}

/// Writes a status, unless it says what was there before, or only its numbers changed and it is not yet time for
/// those.
///
/// # Errors
/// The API server did not take it.
pub async fn patch<K, S>(
    context: &Context,
    resource: &K,
    owner: &Owner,
    before: Option<&S>,
    status: &S,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
    S: Serialize + PartialEq + Default + HasConditions + Numbers,
{
    let key = owner.key::<K>();
    if before == Some(status) {
        return Ok(());
    }
    let rest = status.with_numbers_of(before.unwrap_or(&S::default()));
    if before == Some(&rest) && !context.written.is_due(&key) {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &owner.namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": owner.name, "uid": resource.uid()},
        "status": status,
    });
    let written =
        api.patch_status(&owner.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await?;
    if rest == *status {
        context.written.note(key, written.meta());
    } else {
        context.written.note_numbers(key, written.meta());
    }
    let conditions = before.map(S::conditions).unwrap_or_default();
    report::readiness(context, resource, conditions, status.conditions()).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidegate_crds::handler::{Lag, Retries};

    use super::*;

    /// Whoever goes by a part, as a redrive by the API does by `Subscribed`, must not take it for one of the present
    /// specification.
    #[test]
    fn an_error_says_nothing_new_of_the_parts() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let subscribed = Finding::new(kind::SUBSCRIBED, Status::True, "Subscribed", "");
        let before = merge(summary(vec![subscribed], ""), &[], Some(1), now);
        let error = Error::refused("InvalidFilter", "spec.filter is wrong");
        let found = failure_findings(&error, &before, &[kind::SUBSCRIBED, kind::PODS_READY]);
        let after = merge(found, &before, Some(2), now);
        let said = after.iter().map(|it| (it.type_.as_str(), it.status.as_str(), it.observed_generation));
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                (kind::READY, "False", Some(2)),
                (kind::RECONCILING, "False", Some(2)),
                (kind::STALLED, "True", Some(2)),
                (kind::SUBSCRIBED, "True", Some(1)),
                (kind::PODS_READY, "Unknown", Some(2)),
            ]
        );
    }

    /// What is left of a change that is only one of numbers: nothing, so that it can wait.
    #[test]
    fn a_number_may_be_late_and_that_there_is_one_may_not() {
        let status = |dead_letters, lag: Option<i64>| EventHandlerStatus {
            dead_letters,
            lag: lag.map(|pending| Lag { pending, ..Lag::default() }),
            ..EventHandlerStatus::default()
        };
        for (before, after, may_wait) in [
            (status(Some(3), Some(1)), status(Some(9), Some(2)), true),
            (status(Some(0), Some(1)), status(Some(0), Some(0)), true),
            (status(Some(0), Some(1)), status(Some(1), Some(1)), false),
            (status(Some(7), Some(1)), status(Some(0), Some(1)), false),
            (status(Some(0), None), status(Some(0), Some(1)), false),
            (status(None, None), status(Some(0), None), false),
        ] {
            assert_eq!(after.with_numbers_of(&before) == before, may_wait, "{before:?} {after:?}");
        }
        let retries = |waiting, oldest: Option<&str>| EventHandlerStatus {
            retries: Some(Retries { waiting, oldest: oldest.map(str::to_owned), ..Retries::default() }),
            ..EventHandlerStatus::default()
        };
        for (before, after, may_wait) in [
            (retries(0, None), retries(1, Some("a")), false),
            (retries(1, Some("a")), retries(7, Some("b")), true),
            (retries(7, Some("b")), retries(0, None), false),
            (EventHandlerStatus::default(), retries(0, None), false),
        ] {
            assert_eq!(after.with_numbers_of(&before) == before, may_wait, "{before:?} {after:?}");
        }
        let keys = |held, parked| EventHandlerStatus {
            retries: Some(Retries { waiting: 9, held_keys: held, parked_keys: parked, ..Retries::default() }),
            ..EventHandlerStatus::default()
        };
        for (before, after, may_wait) in [
            (keys(Some(0), Some(3)), keys(Some(1), Some(3)), false),
            (keys(Some(1), Some(3)), keys(Some(2), Some(4)), true),
            (keys(Some(2), Some(4)), keys(Some(0), Some(4)), false),
            (keys(None, None), keys(Some(0), Some(3)), true),
        ] {
            assert_eq!(after.with_numbers_of(&before) == before, may_wait, "{before:?} {after:?}");
        }
        let topic = |events| EventTopicStatus { events: Some(events), ..EventTopicStatus::default() };
        for (before, after, may_wait) in [(0, 1, false), (1, 200, true), (200, 0, false)] {
            assert_eq!(topic(after).with_numbers_of(&topic(before)) == topic(before), may_wait, "{before} {after}");
        }
    }
}
