//! Stores events until their time, and cancels them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tidegate_broker_client::later;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::message_id::{TopicKey, is_cancel_key};
use tidegate_broker_client::publish_ack::StreamError;
use tidegate_cloudevents::Event;
use tidegate_wire::nats::{Client, InvalidHeader, Publish, RequestError};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::room::{NoRoom, Room, Seen};
use super::time::DeliveryTime;
use crate::message::{EXPECTED_STREAM, Message, Origin};
use crate::metrics::Metrics;
use crate::outcome::{self, Failure};
use crate::problem::Problem;
use crate::trace::{self, Context};

/// What the broker's files and its own headers need for a message beside its bytes, with room to spare.
const MESSAGE_OVERHEAD: u64 = 512;
/// The error of nats-server for a stream that is not there (errors.json).
const STREAM_NOT_FOUND: u64 = 10_059;

/// Keeps events of one topic until their time.
pub struct Delayer {
    client: Client,
    subjects: TopicSubjects,
    keys: Arc<TopicKey>,
    room: Mutex<Room>,
    /// One asks at a time.
    asking: tokio::sync::Mutex<()>,
    place: trace::Destination,
    metrics: Arc<Metrics>,
    timeout: Duration,
}

/// An event that is to be published later.
pub struct Delayed {
    at: DeliveryTime,
    key: String,
    message: Message,
    trace: trace::Publish,
}

/// The answer of the broker's API, as far as it is read (nats-server, jetstream_api.go).
#[derive(Deserialize)]
struct Answer {
    error: Option<StreamError>,
    config: Option<Config>,
    state: Option<State>,
    #[serde(default)]
    purged: u64,
}

#[derive(Deserialize)]
struct Config {
    max_bytes: i64,
    #[serde(default)]
    metadata: std::collections::HashMap<String, String>,
}

#[derive(Deserialize)]
struct State {
    bytes: u64,
    messages: u64,
}

impl Delayer {
    /// Over this connection.
    pub fn new(
        client: Client,
        subjects: TopicSubjects,
        keys: Arc<TopicKey>,
        place: trace::Destination,
        metrics: Arc<Metrics>,
        timeout: Duration,
    ) -> Self {
        let (room, asking) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { client, subjects, keys, room, asking, place, metrics, timeout }
    }

    /// What is stored for an event until then.
    pub fn prepare(&self, event: &Event, at: DeliveryTime, origin: Origin<'_>, request: &Context) -> Delayed {
        let mut message = Message::of(event, origin);
        let key = self.keys.cancel_key(&message.message_id);
        let trace = trace::Publish::start(&self.place, event, message.partition, request);
        trace.inject(&mut message.headers);
        message.subject = self.subjects.delayed(&key);
        Delayed { at, key, message, trace }
    }

    /// Checks whether the topic takes events with these times.
    ///
    /// # Errors
    /// It does not, or is not available.
    pub async fn check(&self, times: impl Iterator<Item = DeliveryTime>) -> Result<(), Problem> {
        let now = Instant::now();
        let fresh = self.room().fresh(now);
        let seen = match fresh {
            Some(seen) => seen,
            None => self.look().await?,
        };
        let Some(seen) = seen else { return Err(Problem::no_delayed_events()) };
        let now = OffsetDateTime::now_utc();
        let mut times = times;
        times.try_for_each(|at| at.check(now, seen.max_delay))
    }

    /// Stores an event until its time. Answers with the key by which it can be cancelled.
    ///
    /// # Errors
    /// It is not known to be stored.
    pub async fn store(&self, delayed: Delayed) -> Result<String, Problem> {
        let started = Instant::now();
        let Delayed { at, key, message, trace } = delayed;
        let bytes = u64::try_from(message.size()).unwrap_or(u64::MAX).saturating_add(MESSAGE_OVERHEAD);
        let _taken = self.take(bytes).await?;
        let sent = self.send(at, &key, message).await;
        trace.end(sent);
        self.metrics.published(sent, started.elapsed());
        sent.map(|()| key).map_err(|failure| Problem::not_stored(failure, 0, 1))
    }

    /// Cancels an event that waits. Whether there was one.
    ///
    /// # Errors
    /// The broker did not say.
    pub async fn cancel(&self, key: &str) -> Result<bool, Problem> {
        if !is_cancel_key(key) {
            return Ok(false);
        }
        let filter = json!({"filter": later::cancel_subjects(key)}).to_string();
        let answer = self.ask(&self.subjects.later_purge(), &filter).await?;
        match answer.error {
            None => Ok(answer.purged > 0),
            Some(error) if error.code == STREAM_NOT_FOUND => Ok(false),
            Some(_) => Err(Problem::not_cancelled()),
        }
    }

    async fn send(&self, at: DeliveryTime, key: &str, mut message: Message) -> Result<(), Failure> {
        let schedule = at.schedule().ok_or(Failure::Refused)?;
        address(&mut message, &schedule, key).map_err(|_| Failure::Refused)?;
        let answer = self.client.request(&message.publish(), self.timeout).await.map_err(|error| failure(&error))?;
        let acknowledged = outcome::of_reply(later::STREAM, answer.payload());
        acknowledged.map(drop).map_err(|refusal| {
            tracing::debug!(reason = %refusal.text, "the broker refused a delayed event");
            refusal.failure
        })
    }

    /// Takes room for a message of this size.
    async fn take(&self, bytes: u64) -> Result<Reservation<'_>, Problem> {
        let take = || self.room().take(Instant::now(), bytes);
        let taken = match take() {
            Err(NoRoom::Stale) => {
                self.look().await?;
                take()
            }
            taken => taken,
        };
        match taken {
            Ok(()) => Ok(Reservation { room: &self.room, bytes }),
            Err(NoRoom::NotTaken) => Err(Problem::no_delayed_events()),
            Err(NoRoom::TooLarge(largest)) => Err(Problem::delayed_event_too_large(bytes, largest)),
            Err(NoRoom::Full) => Err(Problem::delayed_events_full()),
            Err(NoRoom::Stale) => Err(Problem::overloaded()),
        }
    }

    /// Asks the stream how it is.
    async fn look(&self) -> Result<Option<Seen>, Problem> {
        let _asking = self.asking.lock().await;
        let asked = self.room().ask(Instant::now());
        let answer = self.ask(&self.subjects.later_info(), "").await?;
        let seen = match answer.error {
            None => seen(&answer),
            Some(error) if error.code == STREAM_NOT_FOUND => None,
            Some(_) => return Err(Problem::not_stored(Failure::Unavailable, 0, 1)),
        };
        self.room().answered(asked, seen);
        Ok(seen)
    }

    async fn ask(&self, subject: &str, body: &str) -> Result<Answer, Problem> {
        let message = Publish { subject, payload: body.as_bytes(), ..Publish::default() };
        let problem = |failure| Problem::not_stored(failure, 0, 1);
        let answer = self.client.request(&message, self.timeout).await;
        let answer = answer.map_err(|error| problem(failure(&error)))?;
        serde_json::from_slice(answer.payload()).map_err(|error| {
            tracing::debug!(%error, subject, "an answer of the broker is not readable");
            problem(Failure::Refused)
        })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        lock(&self.room)
    }
}

/// Room for an event that is under way.
struct Reservation<'a> {
    room: &'a Mutex<Room>,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        lock(self.room).done(self.bytes);
    }
}

fn lock(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a stream that is there says of itself; `None`: it takes no delayed events.
fn seen(answer: &Answer) -> Option<Seen> {
    let (config, state) = (answer.config.as_ref()?, answer.state.as_ref()?);
    let max_delay = Duration::from_secs(config.metadata.get(later::MAX_DELAY)?.parse().ok()?);
    let max_bytes = u64::try_from(config.max_bytes).ok()?;
    Some(Seen { max_delay, max_bytes, bytes: state.bytes, messages: state.messages })
}

/// Says when a message is due, and what it is then.
fn address(message: &mut Message, schedule: &str, key: &str) -> Result<(), InvalidHeader> {
    let headers = &mut message.headers;
    headers.append(later::SCHEDULE, schedule)?;
    headers.append(later::TARGET, &later::due_subject(key))?;
    headers.append(later::MESSAGE_ID, &message.message_id)?;
    headers.append(EXPECTED_STREAM, later::STREAM)
}

fn failure(error: &RequestError) -> Failure {
    match error {
        RequestError::TimedOut => Failure::Timeout,
        RequestError::NoResponders | RequestError::TooMany => Failure::Unavailable,
        RequestError::Publish(error) => outcome::of_client_error(error),
    }
}
