//! A topic's status, from what was seen and done.

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use serde_json::json;
use tidegate_broker_admin::schedules::RefusedSchedule;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::{Finding, Status, kind, merge};
use tidegate_crds::topic::{EventTopicStatus, LostTail, Routing, StreamRecord};

use crate::broker::deletion::retained_now;
use crate::broker::topics::other_namespace;
use crate::context::{Context, Owner};
use crate::reconcile::error::Error;
use crate::reconcile::grants::NOT_ALLOWED_BY_BROKER;
use crate::reconcile::report;
use crate::reconcile::status::{NOT_REACHED, failure_findings, patch, paused, summary};
use crate::sessions::brokers::BrokerKey;
use crate::topic::inside::{Inside, Stored};
use crate::topic::look::Lacking;
use crate::topic::loss;
use crate::topic::observe::{NotGranted, Observed};
use crate::topic::publishers::Publishers;
use crate::topic::settings::Settings;
use crate::topic::{addressable, data_lost, intact, key, retained, room, storage};

/// The broker refuses a change of the streams, which are there and work as they were.
pub const STREAM_REFUSED: &str = "StreamRefused";

/// Writes the status if it changed. Returns whether the topic is ready.
///
/// # Errors
/// The API server did not take it.
pub async fn write(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
    promised: Option<i64>,
    observed: &Observed,
    inside: &Inside,
) -> Result<bool, Error> {
    if let Inside::Failed(error) = inside {
        report::failed(context, topic, error).await;
    }
    let status = of(topic, owner, promised, observed, inside);
    tell_loss(context, topic, &status).await;
    if topic.status.as_ref().and_then(|before| before.data_loss.as_ref()) != status.data_loss.as_ref() {
        // Its audit may pass now, or does no more.
        context.broker_changes.add(observed.broker_key.clone());
    }
    let is_ready =
        status.conditions.iter().any(|condition| condition.type_ == kind::READY && condition.status == "True");
    patch(context, topic, owner, topic.status.as_ref(), &status).await?;
    if let Inside::Ready { stored: Some(stored), .. } = inside {
        let is_first = topic.status.as_ref().is_none_or(|before| before.stream.is_none());
        if is_first || stored.lacking.is_settled() {
            context.ingress_reports.begin_at(&key(owner), stored.events.state.last_sequence);
        }
        if let Lacking::GivenUp(lost) = &stored.lacking {
            report::event(context, topic, EventType::Warning, "EventsGivenUp", lost).await;
        }
    }
    Ok(is_ready)
}

/// Promises the topic what it asks for, and writes that down before anything is made of it: an operator that ends in
/// between would promise the same bytes to another topic. Answers with the bytes that it is promised.
///
/// # Errors
/// The broker has no room for it, or retains what it would end; or the API server did not take it.
pub async fn admit(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
    observed: &Observed,
    settings: &Settings,
) -> Result<u64, Error> {
    let (broker, before) = (&observed.broker_key, topic.status.as_ref().and_then(|status| status.promised));
    let asks_for_more = match before {
        Some(before) => before < signed(settings.promised)?,
        None => true,
    };
    let retained = if asks_for_more { retained_now(context, broker).await? } else { Vec::new() };
    if before.is_none() {
        retained::refuse_direct(settings.routing, &key(owner), broker, &retained)?;
    }
    let promised = context.promises.reserve(context, (broker, &observed.broker), topic, settings, retained)?;
    let signed = signed(promised)?;
    if before.is_none_or(|before| before < signed) {
        let status = EventTopicStatus { promised: Some(signed), ..topic.status.clone().unwrap_or_default() };
        patch(context, topic, owner, topic.status.as_ref(), &status).await?;
    }
    Ok(promised)
}

/// Bytes as a status has them.
///
/// # Errors
/// No store has so many.
pub fn signed(bytes: u64) -> Result<i64, Error> {
    i64::try_from(bytes).map_err(|_| Error::refused("InvalidSpec", format!("no broker stores {bytes} bytes")))
}

/// A loss is an Event once, when it is noticed.
async fn tell_loss(context: &Context, topic: &EventTopic, status: &EventTopicStatus) {
    let before = topic.status.as_ref().and_then(|before| before.data_loss.as_ref());
    if let Some(loss) = status.data_loss.as_ref().filter(|loss| before != Some(*loss)) {
        report::event(context, topic, EventType::Warning, "DataLost", &loss.message).await;
    }
}

/// Where it is written what is released of a topic, before it goes: else a crash in between would look like a loss.
pub struct Journal<'a> {
    /// The API server.
    pub context: &'a Context,
    /// The topic.
    pub topic: &'a EventTopic,
    /// Its name.
    pub owner: &'a Owner,
}

impl Journal<'_> {
    /// Everything up to this sequence is about to be released.
    ///
    /// # Errors
    /// The API server did not take it.
    pub async fn note(&self, up_to: u64) -> Result<(), Error> {
        let api: Api<EventTopic> = Api::namespaced(self.context.client.clone(), &self.owner.namespace);
        let patch = json!({"metadata": {"uid": self.topic.uid()}, "status": {"stream": {"released": up_to}}});
        let written = api.patch_status(&self.owner.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.context.written.note(self.owner.key::<EventTopic>(), &written.metadata);
        Ok(())
    }
}

/// Says that nothing is changed, if it does not say so yet; the rest stays as it was.
///
/// # Errors
/// The API server did not take it.
pub async fn write_paused(context: &Context, topic: &EventTopic, owner: &Owner) -> Result<(), Error> {
    let mut status = topic.status.clone().unwrap_or_default();
    status.conditions = paused(&status.conditions, topic.metadata.generation);
    status.observed_generation = topic.metadata.generation;
    patch(context, topic, owner, topic.status.as_ref(), &status).await
}

/// After an error, only the conditions change: what was true of the rest still is.
pub async fn write_failure(context: &Context, topic: &EventTopic, owner: &Owner, error: &Error) {
    let mut status = topic.status.clone().unwrap_or_default();
    // The cached topic may not show it yet.
    let promised = context.promises.of(topic).and_then(|bytes| i64::try_from(bytes).ok());
    status.promised = status.promised.max(promised);
    let found = failure_findings(error, &status.conditions, &parts(topic));
    status.conditions = merge(found, &status.conditions, topic.metadata.generation, Timestamp::now());
    status.observed_generation = topic.metadata.generation;
    if let Err(error) = patch(context, topic, owner, topic.status.as_ref(), &status).await {
        tracing::warn!(topic = owner.name, namespace = owner.namespace, %error, "status not written");
    }
}

fn parts(topic: &EventTopic) -> Vec<&'static str> {
    let mut parts: Vec<_> = other_namespace(topic).map(|_| kind::GRANTED).into_iter().collect();
    parts.extend([kind::BROKER_AVAILABLE, kind::STREAM_READY, kind::ADDRESSABLE]);
    if topic.spec.routing == Routing::Queued {
        parts.extend([kind::STORAGE_HEALTHY, kind::HAS_ROOM, kind::DATA_LOST, kind::INTACT]);
    }
    parts
}

/// Writes the status of a topic that may not be on the broker that it names, if it changed. What its numbers were stays.
///
/// # Errors
/// The API server did not take it.
pub async fn write_not_granted(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
    refusal: &NotGranted,
) -> Result<(), Error> {
    let mut status = topic.status.clone().unwrap_or_default();
    let refused = Finding::new(kind::GRANTED, Status::False, NOT_ALLOWED_BY_BROKER, refusal.message(topic)).stalled();
    // What its handlers say of it.
    let message = refused.message.clone();
    let stream = Finding::new(kind::STREAM_READY, Status::Unknown, NOT_ALLOWED_BY_BROKER, message);
    let later = |kind| Finding::new(kind, Status::Unknown, NOT_ALLOWED_BY_BROKER, "comes after the grant");
    let is_open = |part: &&str| ![kind::GRANTED, kind::STREAM_READY, kind::DATA_LOST].contains(part);
    let others: Vec<_> = parts(topic).into_iter().filter(is_open).map(later).collect();
    let mut found = summary([vec![refused, stream], others].concat(), "");
    if topic.spec.routing == Routing::Queued {
        let (lost, missing) = (status.data_loss.as_ref(), status.missing_events.as_ref());
        found.push(data_lost::finding(topic, lost, missing, None, Timestamp::now()));
    }
    status.conditions = merge(found, &status.conditions, topic.metadata.generation, Timestamp::now());
    status.observed_generation = topic.metadata.generation;
    patch(context, topic, owner, topic.status.as_ref(), &status).await
}

fn of(
    topic: &EventTopic,
    owner: &Owner,
    promised: Option<i64>,
    observed: &Observed,
    inside: &Inside,
) -> EventTopicStatus {
    let before = topic.status.clone().unwrap_or_default();
    let lacking = match inside {
        Inside::Ready { stored: Some(stored), .. } => Some(&stored.lacking),
        _ => None,
    };
    let data_loss = loss::told(topic, lacking.and_then(Lacking::lost).cloned());
    let now = Timestamp::now();
    let missing_events = data_lost::missing(before.missing_events.as_ref(), lacking, now);
    let mut found = findings(topic, observed, inside);
    if topic.spec.routing == Routing::Queued {
        found.push(data_lost::finding(topic, data_loss.as_ref(), missing_events.as_ref(), lacking, now));
        found.push(intact::finding(topic, observed));
    }
    let mut status = EventTopicStatus {
        conditions: merge(found, &before.conditions, topic.metadata.generation, now),
        observed_generation: topic.metadata.generation,
        address: addressable::address(owner, observed).or_else(|| before.address.clone()),
        promised,
        data_loss,
        missing_events,
        ..before
    };
    if let Inside::Ready { stored, publishers, is_served: _, served: _, account: _ } = inside {
        let signed = |number: u64| i64::try_from(number).ok();
        if let Some(Stored {
            record,
            lacking: _,
            events,
            dead_letters,
            room,
            storage: _,
            refused: _,
            schedules: _,
            handlers,
            claimed: _,
        }) = stored.as_deref()
        {
            let is_acknowledged = status.data_loss.is_none();
            let tail = record
                .lost_tail
                .clone()
                .map(|tail| LostTail { acknowledged: tail.acknowledged || is_acknowledged, ..tail });
            status.stream = Some(StreamRecord { lost_tail: tail, ..record.clone() });
            status.fill = Some(format!("{}%", room.room.percent()));
            status.events = signed(events.state.messages);
            status.bytes = signed(events.state.bytes);
            status.last_sequence = signed(events.state.last_sequence);
            status.dead_letters = signed(*dead_letters);
            status.handlers = i64::try_from(*handlers).ok();
        }
        status.nats_publishers = publishers.names.clone();
        status.nats_publisher_keys = publishers.keys.clone();
    }
    status
}

fn findings(topic: &EventTopic, observed: &Observed, inside: &Inside) -> Vec<Finding> {
    let mut parts: Vec<Finding> = granted(topic, &observed.broker_key).into_iter().collect();
    parts.extend([broker_available(observed), stream_ready(inside), addressable::finding(observed, inside)]);
    parts.extend(stored_parts(topic, inside));
    let mut found = summary(parts, "events can be published");
    if let Inside::Ready { stored: Some(stored), .. } = inside
        && let Some(refused) = &stored.refused
    {
        stall(&mut found, refused);
    }
    found
}

/// Absent where nothing has to be granted.
fn granted(topic: &EventTopic, broker: &BrokerKey) -> Option<Finding> {
    other_namespace(topic)?;
    let own = topic.metadata.namespace.as_deref().unwrap_or_default();
    let message = format!("EventBroker {} grants namespace {own}", broker.shown_in(own));
    Some(Finding::new(kind::GRANTED, Status::True, "AllowedByBroker", message))
}

/// As the broker says of itself.
fn broker_available(observed: &Observed) -> Finding {
    let conditions = observed.broker.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let name = observed.broker_key.shown_in(&observed.topic_namespace);
    let stalled = Finding::kept(kind::STALLED, conditions).filter(Finding::is_true);
    let found = Finding::kept(kind::BROKER_AVAILABLE, conditions).filter(|found| found.reason != NOT_REACHED);
    // One that could not be made says why in Ready.
    let Some(found) = found.or_else(|| Finding::kept(kind::READY, conditions)) else {
        let message = format!("EventBroker {name} is being made");
        return Finding::new(kind::BROKER_AVAILABLE, Status::Unknown, "BrokerStarting", message);
    };
    let why = stalled.as_ref().filter(|_| !found.is_true()).unwrap_or(&found);
    let message = format!("EventBroker {name}: {}", why.message);
    let told = Finding::new(kind::BROKER_AVAILABLE, found.status, why.reason.clone(), message);
    if stalled.is_some() && !told.is_true() { told.stalled() } else { told }
}

/// What is stored has conditions of its own; a Direct topic stores nothing.
fn stored_parts(topic: &EventTopic, inside: &Inside) -> Vec<Finding> {
    if topic.spec.routing == Routing::Direct {
        return Vec::new();
    }
    match inside {
        Inside::Ready { stored: Some(stored), .. } => vec![
            storage::storage_healthy(&stored.storage),
            room::has_room(&stored.room, topic.spec.retention.when_full),
        ],
        _ => [kind::STORAGE_HEALTHY, kind::HAS_ROOM]
            .map(|kind| Finding::new(kind, Status::Unknown, "BrokerNotAsked", "the broker has not answered yet"))
            .into(),
    }
}

/// Only a person can change what the broker refuses.
fn stall(found: &mut [Finding], why: &str) {
    for finding in found {
        let status = match finding.kind {
            kind::STALLED => Status::True,
            kind::RECONCILING => Status::False,
            _ => continue,
        };
        *finding = Finding::new(finding.kind, status, STREAM_REFUSED, why);
    }
}

fn stream_ready(inside: &Inside) -> Finding {
    if let Inside::Ready { stored: Some(stored), .. } = inside
        && let Some(refused) = &stored.refused
    {
        let message = format!("{refused}. Events flow as before; change the field back, or to what the broker takes");
        return Finding::new(kind::STREAM_READY, Status::False, STREAM_REFUSED, message);
    }
    if let Inside::Ready { stored: Some(stored), .. } = inside
        && let Some(RefusedSchedule { name, why }) = stored.schedules.first()
    {
        let more = match stored.schedules.len() {
            1 => String::new(),
            all => format!(" ({all} in all)"),
        };
        let message = format!(
            "the streams are as configured, but the broker does not take schedule {name}: {why}{more}. Correct its cron; for a timeZone the broker's image must have the time zone database, as nats:<version>-alpine has"
        );
        return Finding::new(kind::STREAM_READY, Status::True, "ScheduleRefused", message);
    }
    match inside {
        Inside::Starting(why) => Finding::new(kind::STREAM_READY, Status::Unknown, "BrokerStarting", why.clone()),
        Inside::Failed(error) => Finding::new(kind::STREAM_READY, Status::False, error.reason(), error.to_string()),
        // The topic works without its publisher: this tells of it, and is true all the same.
        Inside::Ready { publishers: Publishers { troubles, .. }, .. } if !troubles.is_empty() => {
            let more = if troubles.len() > 1 { format!(" ({} in all)", troubles.len()) } else { String::new() };
            let message = format!("the streams are as configured, but {}{more}", troubles[0]);
            Finding::new(kind::STREAM_READY, Status::True, "PublisherFailed", message)
        }
        Inside::Ready { .. } => {
            Finding::new(kind::STREAM_READY, Status::True, "Configured", "the streams are as configured")
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_broker_admin::push::AccountState;

    use super::*;
    use crate::broker::topics::Topic;

    #[test]
    fn a_topic_works_without_one_of_its_publishers_and_says_so() {
        let inside = |troubles: &[&str]| Inside::Ready {
            is_served: true,
            served: Box::new(Topic::for_test("shop", "orders")),
            stored: None,
            publishers: Publishers {
                troubles: troubles.iter().map(|&text| text.to_owned()).collect(),
                ..Default::default()
            },
            account: AccountState::InForce,
        };
        let found = stream_ready(&inside(&["NATS publisher a: no", "NATS publisher b: no"]));
        assert!(found.is_true() && found.message.contains("publisher a: no (2 in all)"), "{}", found.message);
        assert_eq!(stream_ready(&inside(&[])).reason, "Configured");
    }
}
