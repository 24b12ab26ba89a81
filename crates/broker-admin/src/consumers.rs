//! The durable consumers of a handler: one, or one for each lane where order is asked for.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::api::{
    AckPolicy, ApiError, Broker, ConsumerConfig, ConsumerInfo, DeliverPolicy, Missing, PriorityPolicy, Refusal,
    StreamInfo,
};
use crate::positions::{Position, Restart, StreamState, is_ahead};
use crate::single_copy;

mod put;

pub(crate) use self::put::{put_again, put_one};

/// The longest a pull may stay open: well below the exports' response threshold (2 minutes), after which
/// an open pull would lose its message until the acknowledgement wait ends.
pub const MAX_EXPIRES: Duration = Duration::from_secs(60);
/// Where a consumer, and a stream of retries, carries its handler's UID.
pub(crate) const UID: &str = "tidegate.io/handler-uid";

/// A lane whose owner did not pull for this long goes to another.
pub const LANE_TIMEOUT: Duration = Duration::from_secs(5);
/// Open pulls of a consumer at most. The broker refuses to change this bound (10012), so it does not depend on the
/// specification: four pulls of each of a thousand pods, the most that a handler can have. An open pull costs the
/// broker memory, the bound does not.
pub(crate) const MAX_WAITING: i64 = 4096;
/// Events that wait for an attempt a few seconds away, at most, beside those at work: what waits for longer is on the
/// retry shelf. The broker keeps some hundred bytes of each; a consumer that is lost delivers as many again.
const SHORT_WAITS: i64 = 10_000;

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
    /// The handler's UID: a handler that is made again is a new one and starts again.
    pub uid: String,
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
    /// Whether nothing is delivered for now.
    pub is_suspended: bool,
    /// Whether each lane finishes what it has before it gets another event.
    pub is_draining: bool,
}

/// Why a consumer is not as wanted. All of these are worth another try, but [`ConsumersFailure::Refused`], and
/// [`ConsumersFailure::Full`] until something goes.
#[derive(Debug, thiserror::Error)]
pub enum ConsumersFailure {
    /// The stream is not there (yet), or the broker is away.
    #[error("stream: {0}")]
    Stream(#[source] ApiError),
    /// The broker did not say what there is of it, or did not make, change or delete it.
    #[error("consumer: {0}")]
    Consumer(#[source] ApiError),
    /// The broker did not give an event.
    #[error("event: {0}")]
    Event(#[source] ApiError),
    /// The broker refuses the configuration itself, so another try ends the same way.
    #[error("the broker refuses the configuration of consumer {name}: {why}")]
    Refused {
        /// Its name.
        name: String,
        /// The broker's reason.
        why: Refusal,
    },
    /// The stream has as many consumers as the broker takes. One that goes makes room.
    #[error("the broker takes no further consumer ({name}): {why}")]
    Full {
        /// Its name.
        name: String,
        /// The broker's reason.
        why: Refusal,
    },
    /// The broker did not list them.
    #[error("consumers: {0}")]
    List(#[source] ApiError),
}

/// Events delivered and not acknowledged at most, for as many pods with as many events in flight each: twice that many,
/// because those of a pod that died are among them for a while, and those that wait for an attempt a few seconds away.
pub fn max_ack_pending(max_replicas: u32, slots: usize) -> i64 {
    let slots = i64::try_from(slots).unwrap_or(i64::MAX);
    i64::from(max_replicas).saturating_mul(slots).saturating_mul(2).saturating_add(SHORT_WAITS)
}

impl Handler {
    /// The durable pull consumers. Deliveries are not limited here: the sidecar owns the limit, so that no event
    /// silently stops.
    pub fn configs(&self) -> Vec<ConsumerConfig> {
        match self.order {
            Order::None => {
                vec![ConsumerConfig { max_ack_pending: self.max_ack_pending, ..self.config(self.name.clone(), None) }]
            }
            Order::Key { lanes } => (0..lanes).map(|lane| self.lane(lane, lanes)).collect(),
        }
    }

    fn lane(&self, lane: u16, lanes: u16) -> ConsumerConfig {
        let partitions = layout::lane_partitions(lane, lanes);
        ConsumerConfig {
            // What comes again counts for no window: with one event in it, none is acknowledged before another.
            max_ack_pending: if self.is_draining { 1 } else { layout::LANE_WINDOW.into() },
            priority_policy: PriorityPolicy::PinnedClient,
            priority_groups: vec![layout::LANE_GROUP.to_owned()],
            priority_timeout: LANE_TIMEOUT,
            ..self.config(layout::lane_consumer(&self.name, lane), (lanes > 1).then_some(&*partitions))
        }
    }

    fn config(&self, name: String, partitions: Option<&[u32]>) -> ConsumerConfig {
        ConsumerConfig {
            durable_name: Some(name),
            description: Some("a Tidegate handler".to_owned()),
            deliver_policy: self.deliver_policy(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_deliver: -1,
            filter_subjects: layout::filter_subjects(&self.name, &self.types, partitions),
            max_waiting: MAX_WAITING,
            max_expires: MAX_EXPIRES,
            // As many copies as its stream has, also when that gets more or fewer.
            num_replicas: 0,
            metadata: HashMap::from([(UID.to_owned(), self.uid.clone())]),
            pause_until: self.is_suspended.then(|| layout::SUSPENDED_UNTIL.to_owned()),
            ..ConsumerConfig::default()
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
pub async fn ensure(broker: &Broker, handler: &Handler, recorded: &Position) -> Result<Ensured, ConsumersFailure> {
    let stream = broker.stream(layout::EVENT_STREAM).await.map_err(ConsumersFailure::Stream)?;
    let state = state(&stream);
    let mut position = Position { stream_created: Some(state.created), ..Position::default() };
    let (mut restarts, mut backlogs) = (Vec::new(), Vec::new());
    for config in handler.configs() {
        // What the broker calls it is not believed: the name comes into the handler's status.
        let name = config.durable_name.clone().unwrap_or_default();
        let (info, origin) = ensure_one(broker, &state, config, &handler.uid, recorded).await?;
        ensure_pace(broker, layout::EVENT_STREAM, &info, handler.is_suspended).await?;
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

fn backlog(consumer: &ConsumerInfo, known: Option<u64>) -> Option<Backlog> {
    let subjects = filters(&consumer.config).into_iter().map(str::to_owned).collect();
    let is_behind = consumer.num_pending > 0 || consumer.num_ack_pending > 0;
    let acknowledged = known.unwrap_or(consumer.ack_floor.stream_sequence);
    is_behind.then_some(Backlog { acknowledged, subjects })
}

pub(crate) fn state(stream: &StreamInfo) -> StreamState {
    StreamState { created: stream.created, last_sequence: stream.state.last_sequence }
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
    broker: &Broker,
    stream: &StreamState,
    mut wanted: ConsumerConfig,
    uid: &str,
    recorded: &Position,
) -> Result<(ConsumerInfo, Origin), ConsumersFailure> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let origin = match broker.consumer(layout::EVENT_STREAM, &name).await {
        Ok(info) if info.config.metadata.get(UID).is_none_or(|found| found != uid) => {
            // Left by a handler of the same name that is no more.
            delete_one(broker, layout::EVENT_STREAM, &name).await?;
            recorded.restart(&name, stream).into()
        }
        // The consumer may have gone on since the stream was looked at.
        Ok(info) if is_ahead(&info, stream) && is_ahead(&info, &state_now(broker).await?) => {
            delete_one(broker, layout::EVENT_STREAM, &name).await?;
            Origin::Restarted(Restart::NewStream)
        }
        Ok(info) if same(&wanted, &info) => return Ok((info, Origin::Found)),
        Ok(info) => {
            keep_unchangeable(&mut wanted, &info.config);
            Origin::Found
        }
        Err(ApiError::NotFound(Missing::Consumer)) => recorded.restart(&name, stream).into(),
        Err(error) => return Err(ConsumersFailure::Consumer(error)),
    };
    if let Origin::Restarted(restart) = origin {
        wanted.deliver_policy = restart.deliver_policy();
    }
    Ok((put_again(broker, layout::EVENT_STREAM, &wanted).await?, origin))
}

/// Pauses a consumer of a handler that is suspended, and no other.
pub(crate) async fn ensure_pace(
    broker: &Broker,
    stream: &str,
    consumer: &ConsumerInfo,
    is_suspended: bool,
) -> Result<(), ConsumersFailure> {
    let wanted = is_suspended.then_some(layout::SUSPENDED_UNTIL);
    let found = consumer.config.pause_until.as_deref();
    // Its stream is coming down to one copy: whoever paused it lets it go on.
    if found == wanted || (wanted.is_none() && single_copy::is_pause(found)) {
        return Ok(());
    }
    broker.pause_consumer(stream, &consumer.name, wanted).await.map(drop).map_err(ConsumersFailure::Consumer)
}

async fn state_now(broker: &Broker) -> Result<StreamState, ConsumersFailure> {
    Ok(state(&broker.stream(layout::EVENT_STREAM).await.map_err(ConsumersFailure::Stream)?))
}

/// What the broker does not let anyone change stays as it was found: a consumer made by another version has other
/// values, and an update that touched them would fail as a whole.
pub(crate) fn keep_unchangeable(wanted: &mut ConsumerConfig, found: &ConsumerConfig) {
    wanted.deliver_policy = found.deliver_policy;
    wanted.ack_policy.clone_from(&found.ack_policy);
    wanted.replay_policy.clone_from(&found.replay_policy);
    wanted.max_waiting = found.max_waiting;
}

/// Removes the handler's consumers and with them its place in the stream. Gone already: fine.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn delete(broker: &Broker, handler: &str) -> Result<(), ConsumersFailure> {
    let names = broker.list_consumer_names(layout::EVENT_STREAM).await.map_err(ConsumersFailure::List)?;
    for name in names.iter().filter(|name| layout::handler_of(name) == handler) {
        delete_one(broker, layout::EVENT_STREAM, name).await?;
    }
    Ok(())
}

/// All consumers of the event stream, leader-correct, in a request per page of 256.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn list(broker: &Broker) -> Result<Vec<ConsumerInfo>, ConsumersFailure> {
    broker.list_consumers(layout::EVENT_STREAM).await.map_err(ConsumersFailure::List)
}

/// The UID of the handler that a consumer was made for; `None`: somebody else made it.
pub fn handler_uid(consumer: &ConsumerInfo) -> Option<&str> {
    consumer.config.metadata.get(UID).map(String::as_str)
}

/// Removes a consumer, and what the servers have left of one that they do not serve. Gone already: fine.
async fn delete_one(broker: &Broker, stream: &str, name: &str) -> Result<(), ConsumersFailure> {
    match broker.delete_consumer(stream, name).await {
        Ok(()) | Err(ApiError::NotFound(Missing::Consumer)) => Ok(()),
        Err(error) => Err(ConsumersFailure::Consumer(error)),
    }
}

/// Only what we set and may change is compared: the server adds defaults and metadata of its own.
pub(crate) fn same(wanted: &ConsumerConfig, info: &ConsumerInfo) -> bool {
    let found = &info.config;
    wanted.ack_wait == found.ack_wait
        && wanted.max_ack_pending == found.max_ack_pending
        && wanted.max_expires == found.max_expires
        && wanted.num_replicas == found.num_replicas
        && wanted.priority_timeout == found.priority_timeout
        && subjects(&wanted.filter_subjects) == filters(found)
}

/// The server tells a single filter in a field of its own.
pub(crate) fn filters(found: &ConsumerConfig) -> Vec<&str> {
    if found.filter_subject.is_empty() { subjects(&found.filter_subjects) } else { vec![&found.filter_subject] }
}

fn subjects(subjects: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = subjects.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted
}
