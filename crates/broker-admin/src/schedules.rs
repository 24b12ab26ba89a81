//! Events that a topic publishes by itself: repeating message schedules in the stream `later` (ADR-51).
//!
//! The broker keeps them going, whether the operator is there or not. One that is wanted as it is there is left alone,
//! so that its next time stays.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ring::digest::{Context, SHA256};
use tidegate_broker_client::later::{self, SCHEDULE_SUBJECTS, STREAM};
use tidegate_broker_client::stored;
use tidegate_cloudevents::Event;
use tidegate_wire::nats::{HeaderBlock, InvalidHeader};

use crate::api::{ApiError, Broker, Missing};

/// Where a schedule's message says what it was made from.
const DIGEST: &str = "Tidegate-Schedule";
/// Schedules that are looked at: many times what a topic can have.
const MAX_FOUND: usize = 1000;

/// An event that is published again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When, in the broker's words.
    pub pattern: String,
    /// In which time zone, if that is not UTC.
    pub time_zone: Option<String>,
    /// The event, but for id and time.
    pub event: Event,
}

/// A schedule that the broker does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSchedule {
    /// Its name.
    pub name: String,
    /// The broker's words.
    pub why: String,
}

impl Schedule {
    fn message(&self) -> Result<(String, HeaderBlock, Bytes), InvalidHeader> {
        let (mut headers, payload) = stored::encode(&self.event);
        headers.append(later::SCHEDULE, &self.pattern)?;
        headers.append(later::TARGET, &later::due_schedule_subject(&self.name))?;
        if let Some(time_zone) = &self.time_zone {
            headers.append(later::TIME_ZONE, time_zone)?;
        }
        let digest = self.digest(&payload);
        headers.append(DIGEST, &digest)?;
        Ok((digest, headers, payload))
    }

    fn digest(&self, payload: &[u8]) -> String {
        let mut context = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        };
        add(self.pattern.as_bytes());
        add(self.time_zone.as_deref().unwrap_or_default().as_bytes());
        for (name, value) in self.event.attributes() {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        add(self.event.data_content_type().unwrap_or_default().as_bytes());
        add(payload);
        URL_SAFE_NO_PAD.encode(context.finish())
    }
}

/// Makes the topic's schedules be these; writes only what differs. Answers with those that the broker does not take;
/// one that was there in another form is not there then.
///
/// # Errors
/// The broker did not say what there is, or did not do what was asked.
pub async fn ensure(broker: &Broker, wanted: &[Schedule]) -> Result<Vec<RefusedSchedule>, ApiError> {
    let found = match found(broker).await {
        Err(ApiError::NotFound(Missing::Stream)) if wanted.is_empty() => return Ok(Vec::new()),
        found => found?,
    };
    for name in found.keys().filter(|name| wanted.iter().all(|wanted| wanted.name != **name)) {
        broker.purge_stream_subject(STREAM, &later::schedule_subject(name)).await?;
    }
    let mut refused = Vec::new();
    for schedule in wanted {
        let subject = later::schedule_subject(&schedule.name);
        let message = schedule.message().map_err(|error| ApiError::Unwritable(error.to_string()))?;
        let (digest, headers, payload) = message;
        if found.get(&schedule.name) == Some(&Some(digest)) {
            continue;
        }
        match broker.publish(&subject, Some(&headers), &payload).await {
            Ok(_) => {}
            Err(ApiError::Refused(why)) => {
                broker.purge_stream_subject(STREAM, &subject).await?;
                refused.push(RefusedSchedule { name: schedule.name.clone(), why: why.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// What each schedule that is there was made from.
async fn found(broker: &Broker) -> Result<BTreeMap<String, Option<String>>, ApiError> {
    let (mut found, mut from) = (BTreeMap::new(), 1);
    while let Some(message) = broker.next_message(STREAM, SCHEDULE_SUBJECTS, from).await? {
        from = message.sequence + 1;
        let digest = message.headers().ok().and_then(|headers| headers.get(DIGEST).map(str::to_owned));
        if let Some(name) = later::schedule_name(&message.subject) {
            found.insert(name.to_owned(), digest);
        }
        if found.len() >= MAX_FOUND {
            break;
        }
    }
    Ok(found)
}
