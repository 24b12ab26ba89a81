//! The durable consumers of a handler: one, or one for each lane where order is asked for.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, PriorityPolicy};
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, ConsumersError, RawMessageError, Stream};
use async_nats::jetstream::{self, ErrorCode};
use futures::TryStreamExt as _;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::positions::{Position, Restart, StreamState, is_ahead};

/// The longest a pull may stay open: well below the exports' response threshold (2 minutes), after which
/// an open pull would lose its message until the acknowledgement wait ends.
pub const MAX_EXPIRES: Duration = Duration::from_secs(60);
/// Where a consumer carries its handler's UID.
const UID: &str = "tidegate.io/handler-uid";

/// A lane whose owner did not pull for this long goes to another.
pub const LANE_TIMEOUT: Duration = Duration::from_secs(5);
/// Open pulls of a consumer at most. The broker refuses to change this bound (10012), so it does not depend on the
/// specification: four pulls of each of a thousand pods, the most that a handler can have. An open pull costs the
/// broker memory, the bound does not.
const MAX_WAITING: i64 = 4096;
/// Events of a lane delivered and not acknowledged at most.
const LANE_WINDOW: i64 = 64;

/// Where a handler begins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Latest,
    /// With the oldest event there is.
    Earliest,
    /// With the first event published at this time or later.
    Time(OffsetDateTime),
    /// With the event of this sequence.
    Sequence(u64),
}

impl Start {
    /// The sequence after which a consumer begins that is made when the stream has got this far; `None`: only the
    /// broker knows.
    fn begins_after(self, stream: &StreamState) -> Option<u64> {
        match self {
            Self::Latest => Some(stream.last_sequence),
            Self::Earliest => Some(0),
            Self::Time(_) => None,
            Self::Sequence(sequence) => Some(sequence.saturating_sub(1)),
        }
    }
}

/// What a handler's consumers depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// Its name; the consumers are named after it.
    pub name: String,
    /// The handler's UID: a handler that is made again is a new one and starts anew.
    pub uid: String,
    /// Copies of its state.
    pub replicas: usize,
    /// How long an event may stay unacknowledged.
    pub ack_wait: Duration,
    /// Events delivered and not acknowledged at most, over all replicas.
    pub max_ack_pending: i64,
    /// Event types, or `prefix.*`; none: all.
    pub types: Vec<String>,
    /// Where it begins, once.
    pub start: Start,
    /// One consumer, or one for each lane.
    pub order: Order,
}

/// Why a consumer is not as wanted. All of these but [`ConsumersFailure::Refused`] are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum ConsumersFailure {
    /// The stream is not there (yet), or the broker is away.
    #[error("stream: {0}")]
    Stream(#[from] GetStreamError),
    /// The broker did not make, change or delete it.
    #[error("consumer: {0}")]
    Consumer(#[from] ConsumerError),
    /// The broker did not say what there is of it.
    #[error("consumer: {0}")]
    Info(#[from] ConsumerInfoError),
    /// The broker did not give an event.
    #[error("event: {0}")]
    Event(#[from] RawMessageError),
    /// The broker refuses the configuration itself, so another try ends the same way.
    #[error("the broker refuses the configuration of consumer {name}: {source}")]
    Refused {
        /// Its name.
        name: String,
        /// The broker's reason.
        source: ConsumerError,
    },
    /// The broker did not list them.
    #[error("consumers: {0}")]
    List(#[from] ConsumersError),
}

/// Events delivered and not acknowledged at most, for as many pods with as many events in flight each: what waits for
/// its retry is among them.
pub fn max_ack_pending(max_replicas: u32, slots: usize) -> i64 {
    let slots = i64::try_from(slots).unwrap_or(i64::MAX);
    i64::from(max_replicas).saturating_mul(slots).saturating_mul(2)
}

impl Handler {
    /// The durable pull consumers. Deliveries are not limited here: the sidecar owns the limit, so that no event
    /// silently stops.
    pub fn configs(&self) -> Vec<Config> {
        match self.order {
            Order::None => {
                vec![Config { max_ack_pending: self.max_ack_pending, ..self.config(self.name.clone(), None) }]
            }
            Order::Key { lanes } => (0..lanes).map(|lane| self.lane(lane, lanes)).collect(),
        }
    }

    fn lane(&self, lane: u16, lanes: u16) -> Config {
        let partitions = layout::lane_partitions(lane, lanes);
        Config {
            max_ack_pending: LANE_WINDOW,
            priority_policy: PriorityPolicy::PinnedClient,
            priority_groups: vec![layout::LANE_GROUP.to_owned()],
            priority_timeout: LANE_TIMEOUT,
            ..self.config(layout::lane_consumer(&self.name, lane), (lanes > 1).then_some(&*partitions))
        }
    }

    fn config(&self, name: String, partitions: Option<&[u32]>) -> Config {
        Config {
            durable_name: Some(name),
            description: Some("a Tidegate handler".to_owned()),
            deliver_policy: self.deliver_policy(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_deliver: -1,
            filter_subjects: layout::filter_subjects(&self.name, &self.types, partitions),
            max_waiting: MAX_WAITING,
            max_expires: MAX_EXPIRES,
            num_replicas: self.replicas,
            metadata: HashMap::from([(UID.to_owned(), self.uid.clone())]),
            ..Config::default()
        }
    }

    fn deliver_policy(&self) -> DeliverPolicy {
        match self.start {
            Start::Latest => DeliverPolicy::New,
            Start::Earliest => DeliverPolicy::All,
            Start::Time(start_time) => DeliverPolicy::ByStartTime { start_time },
            Start::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
        }
    }
}

/// What [`ensure`] found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// How far the handler is now.
    pub position: Position,
    /// The consumers that were made and do not begin where a new handler does.
    pub restarts: Vec<(String, Restart)>,
    /// The consumer that is furthest behind; `None`: all events are acknowledged.
    pub backlog: Option<Backlog>,
}

/// A consumer that has not acknowledged all its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The sequence up to which all of them are acknowledged.
    pub acknowledged: u64,
    /// The subjects that it reads.
    pub subjects: Vec<String>,
}

/// Makes the handler's consumers be as configured; writes only what differs. A position in the stream is never moved: a
/// handler's start counts where no position is `recorded`, and a consumer that is gone continues from its record.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn ensure(
    js: &jetstream::Context,
    handler: &Handler,
    recorded: &Position,
) -> Result<Ensured, ConsumersFailure> {
    let stream = js.get_stream(layout::EVENT_STREAM).await?;
    let state = state(&stream);
    let mut position = Position { stream_created: Some(state.created), ..Position::default() };
    let (mut restarts, mut backlogs) = (Vec::new(), Vec::new());
    for config in handler.configs() {
        // What the broker calls it is not believed: the name comes into the handler's status.
        let name = config.durable_name.clone().unwrap_or_default();
        let (info, origin) = ensure_one(js, &stream, config, &handler.uid, recorded).await?;
        let (known, restart) = match origin {
            Origin::Found => (recorded.acknowledged.get(&name).copied(), None),
            Origin::New => (handler.start.begins_after(&state), None),
            Origin::Restarted(restart) => (Some(restart.begins_after()), Some(restart)),
        };
        position.record(&name, &info, &state, known);
        backlogs.extend(backlog(&info, position.acknowledged.get(&name).copied()));
        restarts.extend(restart.map(|restart| (name, restart)));
    }
    let backlog = backlogs.into_iter().min_by_key(|backlog| backlog.acknowledged);
    Ok(Ensured { position, restarts, backlog })
}

fn backlog(consumer: &Info, known: Option<u64>) -> Option<Backlog> {
    let subjects = filters(&consumer.config).into_iter().map(str::to_owned).collect();
    let is_behind = consumer.num_pending > 0 || consumer.num_ack_pending > 0;
    let acknowledged = known.unwrap_or(consumer.ack_floor.stream_sequence);
    is_behind.then_some(Backlog { acknowledged, subjects })
}

fn state(stream: &Stream) -> StreamState {
    let info = stream.cached_info();
    StreamState { created: info.created, last_sequence: info.state.last_sequence }
}

/// How a consumer came to be there.
enum Origin {
    /// It was there.
    Found,
    /// It was made for a handler without a position.
    New,
    /// It was made for one with a position.
    Restarted(Restart),
}

impl From<Option<Restart>> for Origin {
    fn from(restart: Option<Restart>) -> Self {
        restart.map_or(Self::New, Self::Restarted)
    }
}

async fn ensure_one(
    js: &jetstream::Context,
    stream: &Stream,
    mut wanted: Config,
    uid: &str,
    recorded: &Position,
) -> Result<(Info, Origin), ConsumersFailure> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let origin = match stream.consumer_info(&name).await {
        Ok(info) if info.config.metadata.get(UID).is_none_or(|found| found != uid) => {
            // Left by a handler of the same name that is no more.
            delete_from(stream, &name).await?;
            recorded.restart(&name, &state(stream)).into()
        }
        // The consumer may have gone on since the stream was looked at.
        Ok(info) if is_ahead(&info, &state(stream)) && is_ahead(&info, &state_now(js).await?) => {
            delete_from(stream, &name).await?;
            Origin::Restarted(Restart::NewStream)
        }
        Ok(info) if same(&wanted, &info) => return Ok((info, Origin::Found)),
        Ok(info) => {
            keep_unchangeable(&mut wanted, &info.config);
            Origin::Found
        }
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => recorded.restart(&name, &state(stream)).into(),
        Err(error) => return Err(error.into()),
    };
    if let Origin::Restarted(restart) = origin {
        wanted.deliver_policy = restart.deliver_policy();
    }
    match stream.create_consumer(wanted).await {
        Ok(consumer) => Ok((consumer.cached_info().clone(), origin)),
        Err(source) if is_refusal(&source) => Err(ConsumersFailure::Refused { name, source }),
        Err(error) => Err(error.into()),
    }
}

async fn state_now(js: &jetstream::Context) -> Result<StreamState, ConsumersFailure> {
    Ok(state(&js.get_stream(layout::EVENT_STREAM).await?))
}

/// What the broker does not let anyone change stays as it was found: a consumer made by another version has other
/// values, and an update that touched them would fail as a whole.
fn keep_unchangeable(wanted: &mut Config, found: &async_nats::jetstream::consumer::Config) {
    wanted.deliver_policy = found.deliver_policy;
    wanted.ack_policy = found.ack_policy;
    wanted.replay_policy = found.replay_policy;
    wanted.max_waiting = found.max_waiting;
}

/// Whether the broker judged the configuration (as opposed to its own state, which may change by itself).
fn is_refusal(error: &ConsumerError) -> bool {
    let ConsumerErrorKind::JetStream(error) = error.kind() else { return false };
    match error.error_code() {
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::MAXIMUM_CONSUMERS_LIMIT | ErrorCode::INSUFFICIENT_RESOURCES => false,
        ErrorCode::CONSUMER_CREATE => true,
        _ => error.code() == 400,
    }
}

/// Removes the handler's consumers and with them its place in the stream. Gone already: fine.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn delete(js: &jetstream::Context, handler: &str) -> Result<(), ConsumersFailure> {
    let stream = match js.get_stream(layout::EVENT_STREAM).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => return Ok(()),
            _ => return Err(error.into()),
        },
    };
    let names: Vec<String> = stream.consumer_names().try_collect().await?;
    for name in names.iter().filter(|name| layout::handler_of(name) == handler) {
        delete_from(&stream, name).await?;
    }
    Ok(())
}

/// All consumers of the event stream, leader-correct, in a request per page of 256.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn list(js: &jetstream::Context) -> Result<Vec<Info>, ConsumersFailure> {
    let stream = js.get_stream_no_info(layout::EVENT_STREAM).await?;
    Ok(stream.consumers().try_collect().await?)
}

/// The UID of the handler that a consumer was made for; `None`: somebody else made it.
pub fn handler_uid(consumer: &Info) -> Option<&str> {
    consumer.config.metadata.get(UID).map(String::as_str)
}

async fn delete_from<I>(stream: &Stream<I>, name: &str) -> Result<(), ConsumersFailure> {
    match stream.delete_consumer(name).await {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(()),
            _ => Err(error.into()),
        },
    }
}

/// Only what we set and may change is compared: the server adds defaults and metadata of its own.
fn same(wanted: &Config, info: &Info) -> bool {
    let found = &info.config;
    wanted.ack_wait == found.ack_wait
        && wanted.max_ack_pending == found.max_ack_pending
        && wanted.max_expires == found.max_expires
        && wanted.num_replicas == found.num_replicas
        && wanted.priority_timeout == found.priority_timeout
        && subjects(&wanted.filter_subjects) == filters(found)
}

/// The server tells a single filter in a field of its own.
fn filters(found: &async_nats::jetstream::consumer::Config) -> Vec<&str> {
    if found.filter_subject.is_empty() { subjects(&found.filter_subjects) } else { vec![&found.filter_subject] }
}

fn subjects(subjects: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = subjects.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted
}
