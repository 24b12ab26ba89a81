//! The durable consumer of a handler.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info};
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, ConsumersError, Stream};
use async_nats::jetstream::{self, ErrorCode};
use futures::TryStreamExt as _;
use tidegate_broker_client::layout;

/// The longest a pull may stay open: well below the exports' response threshold (2 minutes), after which
/// an open pull would lose its message until the acknowledgement wait ends.
pub const MAX_EXPIRES: Duration = Duration::from_secs(60);
/// Where a consumer carries its handler's UID.
const UID: &str = "tidegate.io/handler-uid";

/// What a handler's consumer depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// Its name is the consumer's.
    pub name: String,
    /// The handler's UID: a handler that is made again is a new one and starts anew.
    pub uid: String,
    /// Copies of its state.
    pub replicas: usize,
    /// How long an event may stay unacknowledged.
    pub ack_wait: Duration,
    /// Events delivered and not acknowledged at most, over all replicas.
    pub max_ack_pending: i64,
    /// Open pulls at most.
    pub max_waiting: i64,
}

/// Why a consumer is not as wanted. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum ConsumersFailure {
    /// The stream is not there (yet), or the broker is away.
    #[error("stream: {0}")]
    Stream(#[from] GetStreamError),
    /// The broker did not make, change or delete it.
    #[error("consumer: {0}")]
    Consumer(#[from] ConsumerError),
    /// The broker did not list them.
    #[error("consumers: {0}")]
    List(#[from] ConsumersError),
}

impl Handler {
    /// The durable pull consumer. Deliveries are not limited here: the sidecar owns the limit, so that no
    /// event silently stops.
    pub fn config(&self) -> Config {
        Config {
            durable_name: Some(self.name.clone()),
            description: Some("a Tidegate handler".to_owned()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_deliver: -1,
            filter_subject: layout::EVENT_SUBJECTS.to_owned(),
            max_ack_pending: self.max_ack_pending,
            max_waiting: self.max_waiting,
            max_expires: MAX_EXPIRES,
            num_replicas: self.replicas,
            metadata: HashMap::from([(UID.to_owned(), self.uid.clone())]),
            ..Config::default()
        }
    }
}

/// Makes the handler's consumer be as configured; writes only what differs.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn ensure(js: &jetstream::Context, handler: &Handler) -> Result<Info, ConsumersFailure> {
    let stream = js.get_stream(layout::EVENT_STREAM).await?;
    match stream.consumer_info(&handler.name).await {
        Ok(info) if info.config.metadata.get(UID) != Some(&handler.uid) => {
            // Left by a handler of the same name that is no more.
            delete_from(&stream, &handler.name).await?;
        }
        Ok(info) if same(&handler.config(), &info) => return Ok(info),
        // Not there, or not as wanted: both are settled by what follows, and so is a broker that is away.
        _ => {}
    }
    let consumer = stream.create_consumer(handler.config()).await?;
    Ok(consumer.cached_info().clone())
}

/// Removes the handler's consumer and with it its place in the stream. Gone already: fine.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn delete(js: &jetstream::Context, name: &str) -> Result<(), ConsumersFailure> {
    match js.get_stream(layout::EVENT_STREAM).await {
        Ok(stream) => delete_from(&stream, name).await,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
            _ => Err(error.into()),
        },
    }
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

/// Only what we set is compared: the server adds defaults and metadata of its own.
fn same(wanted: &Config, info: &Info) -> bool {
    let found = &info.config;
    wanted.ack_wait == found.ack_wait
        && wanted.max_ack_pending == found.max_ack_pending
        && wanted.max_waiting == found.max_waiting
        && wanted.max_expires == found.max_expires
        && wanted.num_replicas == found.num_replicas
        && wanted.filter_subject == found.filter_subject
}
