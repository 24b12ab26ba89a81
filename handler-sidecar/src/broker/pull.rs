//! The pull protocol over plain messages: requests to the consumer, events and statuses back.
//!
//! The handler's account has no JetStream of its own; it imports the pull subject of its consumer and nothing
//! that could describe it. So there is no consumer handle here, only `$JS.API.CONSUMER.MSG.NEXT.…`:
//! a [`Session`] is one inbox and the requests that reply to it.
//!
//! - Requests expire well below the broker's response threshold (2 min), or an event that follows a long
//!   silence would not find its way back.
//! - The first request of a session is short, with a quick heartbeat: no other answer would soon tell that the
//!   consumer is there.
//! - A session whose account of open requests is in doubt (a status that does not say how many events are
//!   left, a new connection, no heartbeat) is closed, and another is opened with a new inbox.

pub mod status;
pub mod window;

use std::time::Duration;

use async_nats::{Client, Message, PublishError, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use tidegate_broker_client::layout;
use tokio::time::{Instant, timeout};

use crate::consume::in_hand::InHand;
use crate::ops::budget::ByteBudget;
use status::{Signal, Trouble};

/// How long a closing session may still bring events; much longer than a round trip.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A request brings no more bytes than this, unless that is less than one event can have.
const REQUEST_BYTES: usize = 8 << 20;
/// What the broker counts beside the payload and the headers of an event: subjects.
const ENVELOPE: usize = 4096;

/// How long a request stays open, and how often the broker says that it is.
struct Terms {
    expires: Duration,
    heartbeat: Duration,
}

const FIRST: Terms = Terms { expires: Duration::from_secs(2), heartbeat: Duration::from_millis(250) };
const LATER: Terms = Terms { expires: Duration::from_secs(25), heartbeat: Duration::from_secs(5) };

impl Terms {
    /// Two heartbeats may be late before the silence means something.
    fn patience(&self) -> Duration {
        self.heartbeat * 2 + Duration::from_millis(500)
    }
}

/// The body of a pull request; durations in nanoseconds.
#[derive(Serialize)]
struct PullRequest {
    batch: usize,
    expires: u128,
    idle_heartbeat: u128,
    max_bytes: usize,
}

/// Why a session could not be opened or a request not be sent: the connection is gone for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The inbox.
    #[error("inbox: {0}")]
    Subscribe(#[from] SubscribeError),
    /// The request.
    #[error("pull request: {0}")]
    Publish(#[from] PublishError),
    /// Never, for numbers.
    #[error("pull request: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What came.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and a box would be an allocation per event")]
#[derive(Debug)]
pub enum Arrival {
    /// An event, now in hand.
    Event(InHand),
    /// A sign of life: the pull is accepted.
    Alive,
    /// The session is of no use any more.
    Trouble(Trouble),
    /// A closing session's end: nothing more will come.
    Closed,
}

/// One inbox and its open requests.
#[derive(Debug)]
pub struct Session {
    client: Client,
    budget: ByteBudget,
    subscriber: Subscriber,
    subject: String,
    inbox: String,
    outstanding: usize,
    heard: Instant,
    patience: Duration,
    closed_by: Option<Instant>,
}

impl Session {
    /// Opens an inbox and asks the handler's consumer for a first batch.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub async fn open(client: &Client, handler: &str, budget: &ByteBudget, batch: usize) -> Result<Self, Error> {
        let inbox = client.new_inbox();
        let mut session = Self {
            client: client.clone(),
            budget: budget.clone(),
            subscriber: client.subscribe(inbox.clone()).await?,
            subject: layout::pull_subject(handler),
            inbox,
            outstanding: 0,
            heard: Instant::now(),
            patience: FIRST.patience(),
            closed_by: None,
        };
        session.ask(batch, &FIRST).await?;
        Ok(session)
    }

    /// Asks for more.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub async fn request(&mut self, batch: usize) -> Result<(), Error> {
        self.ask(batch, &LATER).await
    }

    async fn ask(&mut self, batch: usize, terms: &Terms) -> Result<(), Error> {
        let request = PullRequest {
            batch,
            expires: terms.expires.as_nanos(),
            idle_heartbeat: terms.heartbeat.as_nanos(),
            // Less than one event of the greatest size would stop the pull there.
            max_bytes: REQUEST_BYTES.max(self.client.max_payload() + ENVELOPE),
        };
        let body = Bytes::from(serde_json::to_vec(&request)?);
        if self.outstanding == 0 {
            // Silence counts from here: without an open request nothing is owed to us.
            self.heard = Instant::now();
        }
        self.client.publish_with_reply(self.subject.clone(), self.inbox.clone(), body).await?;
        self.outstanding += batch;
        self.patience = self.patience.max(terms.patience());
        Ok(())
    }

    /// Events asked for that have not come.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// When the silence, if it lasts, means that the consumer is gone; `None` while nothing is owed to us.
    pub fn silent_at(&self) -> Option<Instant> {
        (self.outstanding > 0 && self.closed_by.is_none()).then(|| self.heard + self.patience)
    }

    /// When a closing session is given up at the latest; `None` if it is not closing.
    pub fn closed_by(&self) -> Option<Instant> {
        self.closed_by
    }

    /// Stops it. What the broker sent before it heard of that still arrives; then comes [`Arrival::Closed`].
    pub async fn close(&mut self) {
        self.closed_by = Some(Instant::now() + CLOSE_LIMIT);
        if let Ok(Err(error)) = timeout(CLOSE_LIMIT, self.subscriber.drain()).await {
            tracing::debug!(%error, "the inbox of a pull was not closed");
        }
    }

    /// The next message. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Arrival {
        match self.subscriber.next().await {
            Some(message) => {
                self.heard = Instant::now();
                self.understand(message)
            }
            None => Arrival::Closed,
        }
    }

    fn understand(&mut self, message: Message) -> Arrival {
        let Some(code) = message.status else { return self.event(message) };
        match status::parse(code, message.description.as_deref(), message.headers.as_ref()) {
            Signal::Heartbeat => Arrival::Alive,
            Signal::Ended(left) => {
                self.outstanding = self.outstanding.saturating_sub(left);
                Arrival::Alive
            }
            Signal::Lost(trouble) => Arrival::Trouble(trouble),
        }
    }

    fn event(&mut self, message: Message) -> Arrival {
        self.outstanding = self.outstanding.saturating_sub(1);
        match InHand::new(self.client.clone(), message, &self.budget) {
            Some(event) => Arrival::Event(event),
            None => {
                tracing::error!("a message that is neither an event nor a status came to the inbox of a pull");
                Arrival::Alive
            }
        }
    }
}
