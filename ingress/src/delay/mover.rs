//! Stores events whose time has come in the stream of events.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_wire::nats::{self, Client, Publish, PublishError, SubscribeError};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::due;
use crate::outcome::Failure;
use crate::publish::TopicPublisher;

/// Events that a pull brings at most, and bytes of them: one of the largest that any topic can have, with its headers.
/// One that did not fit would hold up those behind it.
const PULL_EVENTS: usize = 256;
const PULL_BYTES: usize = 9 << 20;
/// How long a pull stays open, and how much later its end must have come.
const PULL_EXPIRES: Duration = Duration::from_secs(20);
const PULL_GRACE: Duration = Duration::from_secs(5);
/// When a topic without such a stream is asked again, and one whose consumer has no leader.
const ABSENT: Duration = Duration::from_secs(5);
const REFUSED: Duration = Duration::from_secs(1);
/// When an event is tried again that the stream of events does not take as it is: a person has to change that.
const TOO_LARGE: Duration = Duration::from_secs(60);
const NO_RESPONDERS: u16 = 503;
const REQUEST_TIMEOUT: u16 = 408;
const NO_MESSAGES: u16 = 404;

const ACKNOWLEDGE: &[u8] = b"+ACK";
const TERMINATE: &[u8] = b"+TERM";

/// The task that does it for a topic, one in each ingress. All ingresses share one consumer.
pub struct Mover {
    client: Client,
    subjects: TopicSubjects,
    publisher: Arc<TopicPublisher>,
}

/// Why a pull did not bring what it could.
#[derive(Debug, thiserror::Error)]
enum NotPulled {
    #[error("the pull was not sent: {0}")]
    Publish(#[from] PublishError),
    #[error("its answers cannot be listened to: {0}")]
    Subscribe(#[from] SubscribeError),
    #[error("nothing answers")]
    Absent,
    #[error("the broker ended it ({0})")]
    Refused(u16),
}

impl Mover {
    /// Over this connection.
    pub fn new(client: Client, subjects: TopicSubjects, publisher: Arc<TopicPublisher>) -> Self {
        Self { client, subjects, publisher }
    }

    /// Moves what is due until `stop`. What has come by then is still moved.
    pub async fn run(self, stop: CancellationToken) {
        let mut link = self.client.link();
        while !stop.is_cancelled() {
            let pulled = self.pull(&stop).await;
            let wait = match pulled {
                Ok(()) => continue,
                Err(NotPulled::Publish(PublishError::Disconnected)) => {
                    // The sender lives as long as the client.
                    let connected = async { drop(link.wait_for(|link| link.connected).await) };
                    stop.run_until_cancelled(connected).await;
                    continue;
                }
                Err(NotPulled::Absent) => ABSENT,
                Err(error) => {
                    tracing::debug!(%error, "no delayed events from the broker at the moment");
                    REFUSED
                }
            };
            stop.run_until_cancelled(sleep(wait)).await;
        }
    }

    /// One pull, to its end.
    async fn pull(&self, stop: &CancellationToken) -> Result<(), NotPulled> {
        let inbox = self.client.new_inbox();
        // What was asked for over a connection does not come over the next one.
        let mut replies = self.client.subscribe_until_disconnect(&inbox)?;
        let deadline = Instant::now() + PULL_EXPIRES + PULL_GRACE;
        let expires = PULL_EXPIRES.as_nanos();
        let body = format!(r#"{{"batch":{PULL_EVENTS},"expires":{expires},"max_bytes":{PULL_BYTES}}}"#);
        let pull = Publish {
            subject: self.subjects.pull(),
            reply: Some(&inbox),
            payload: body.as_bytes(),
            ..Publish::default()
        };
        self.client.publish_now(&pull).await?;
        let mut moving = FuturesUnordered::new();
        let mut left = PULL_EVENTS;
        let mut ended = Ok(());
        while left > 0 {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = moving.next() => {}
                reply = timeout_at(deadline, replies.next()) => {
                    let Ok(Some(message)) = reply else { break };
                    match message.status() {
                        None => {
                            left -= 1;
                            moving.push(self.move_on(message));
                        }
                        Some(REQUEST_TIMEOUT | NO_MESSAGES) => break,
                        Some(NO_RESPONDERS) => {
                            ended = Err(NotPulled::Absent);
                            break;
                        }
                        // 409, among others for a pull that has its bytes.
                        Some(status) => {
                            ended = if left < PULL_EVENTS { Ok(()) } else { Err(NotPulled::Refused(status)) };
                            break;
                        }
                    }
                }
            }
        }
        while moving.next().await.is_some() {}
        ended
    }

    /// Stores one event in the stream of events, and only then lets the broker forget that it was due. It comes again
    /// if the broker does not hear that, and is recognised by its message id.
    async fn move_on(&self, message: nats::Message) {
        // What has no reply subject of this consumer came from elsewhere.
        let Some(reply) = message.reply().and_then(|reply| self.subjects.acknowledge(reply)) else { return };
        let answer = match due::read(&message) {
            Ok(event) => match self.publisher.move_on(event).await {
                Ok(_) => ACKNOWLEDGE.to_vec(),
                Err(failure) => again(failure),
            },
            Err(error) => {
                let subject = message.subject();
                tracing::warn!(subject, %error, "removing what was due, because it is not an event");
                TERMINATE.to_vec()
            }
        };
        let answer = Publish { subject: &reply, payload: &answer, ..Publish::default() };
        if let Err(error) = self.client.publish(&answer).await {
            tracing::debug!(%error, "cannot tell the broker about an event that was due");
        }
    }
}

/// The broker gives it again after a while.
fn again(failure: Failure) -> Vec<u8> {
    let wait = failure.retry_after().unwrap_or(TOO_LARGE);
    format!(r#"-NAK {{"delay":{}}}"#, wait.as_nanos()).into_bytes()
}
