//! The connection as the committer uses it: messages out, numbered answers in. All that is particular to the client
//! library is here.

use std::future::poll_fn;

use async_nats::connection::State;
use async_nats::header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::message::OutboundMessage;
use async_nats::{Client, PublishErrorKind, StatusCode, SubscribeError, Subscriber};
use futures::{SinkExt as _, StreamExt as _};
use tidegate_broker_client::layout;

use crate::message::Message;
use crate::outcome::{self, Acknowledged, Failure, Refusal};

/// The headers of an atomic batch (ADR-50).
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// What an answer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The message with this ticket.
    Single(u64),
    /// The batch with this number.
    Batch(u64),
}

/// A message that is ready to be sent.
pub struct Outgoing {
    /// What it is, or is a part of.
    pub subject: Subject,
    message: OutboundMessage,
}

/// An answer of the broker.
pub struct Answer {
    /// To what.
    pub to: Subject,
    /// What it says.
    pub result: Result<Acknowledged, Refusal>,
}

/// The way to the broker.
pub struct Link {
    client: Client,
    /// Answers come to subjects below this one.
    inbox: String,
    /// What the ids of this link's batches begin with.
    batches: String,
}

/// The way back.
pub struct Answers(Subscriber);

/// Begins to listen for answers.
///
/// # Errors
/// The connection is closed for good.
pub async fn open(client: Client) -> Result<(Link, Answers), SubscribeError> {
    let inbox = client.new_inbox();
    let answers = client.subscribe(format!("{inbox}.*")).await?;
    Ok((Link { client, inbox, batches: format!("{:x}", fastrand::u64(..)) }, Answers(answers)))
}

impl Link {
    /// Whether there is a connection: without one the client would keep a message and send it later.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// A message on its own.
    pub fn single(&self, ticket: u64, message: Message) -> Outgoing {
        self.outgoing(Subject::Single(ticket), message, true)
    }

    /// The messages of a batch, of which the broker answers the last.
    pub fn batch<'a>(
        &'a self,
        number: u64,
        messages: impl ExactSizeIterator<Item = Message> + 'a,
    ) -> impl Iterator<Item = Outgoing> + 'a {
        let size = messages.len();
        let id = format!("{}-{number:x}", self.batches);
        (1..).zip(messages).map(move |(sequence, mut message)| {
            let headers = &mut message.headers;
            headers.insert(BATCH_ID, &*id);
            headers.insert(BATCH_SEQUENCE, sequence.to_string());
            if sequence == size {
                headers.insert(BATCH_COMMIT, "1");
            }
            self.outgoing(Subject::Batch(number), message, sequence == size)
        })
    }

    fn outgoing(&self, subject: Subject, message: Message, answered: bool) -> Outgoing {
        let token = match subject {
            Subject::Single(ticket) => format!("s{ticket}"),
            Subject::Batch(number) => format!("b{number}"),
        };
        let reply = answered.then(|| format!("{}.{token}", self.inbox).into());
        let Message { subject: to, message_id, mut headers, payload, .. } = message;
        headers.insert(NATS_MESSAGE_ID, message_id);
        headers.insert(NATS_EXPECTED_STREAM, layout::EVENT_STREAM);
        let message = OutboundMessage { subject: to.into(), reply, payload, headers: Some(headers) };
        Outgoing { subject, message }
    }

    /// Waits until the client takes a message. Can be cancelled.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub async fn ready(&mut self) -> Result<(), Refusal> {
        let ready = poll_fn(|context| self.client.poll_ready_unpin(context)).await;
        ready.map_err(|_| Refusal::of_client(Failure::Unavailable))
    }

    /// Gives a message to the client, which is [ready](Self::ready).
    ///
    /// # Errors
    /// The client does not take it.
    pub fn send(&mut self, Outgoing { message, .. }: Outgoing) -> Result<(), Refusal> {
        self.client.start_send_unpin(message).map_err(|error| {
            Refusal::of_client(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Failure::TooLarge,
                PublishErrorKind::Send => Failure::Unavailable,
                PublishErrorKind::InvalidSubject => Failure::Refused,
            })
        })
    }
}

impl Answers {
    /// The next answer; `None`: the connection is closed for good. Can be cancelled.
    pub async fn next(&mut self) -> Option<Answer> {
        loop {
            let message = self.0.next().await?;
            if let Some(answer) = read(&message) {
                return Some(answer);
            }
        }
    }
}

/// `None`: nothing that was asked for. (The inbox has a random name, but a broker may send anything.)
fn read(message: &async_nats::Message) -> Option<Answer> {
    let token = message.subject.as_str().rsplit('.').next()?;
    let to = match (token.strip_prefix('s'), token.strip_prefix('b')) {
        (Some(ticket), _) => Subject::Single(ticket.parse().ok()?),
        (_, Some(number)) => Subject::Batch(number.parse().ok()?),
        (None, None) => return None,
    };
    let result = match message.status {
        Some(StatusCode::NO_RESPONDERS) => Err(Refusal::of_client(Failure::Unavailable)),
        _ => outcome::of_reply(&message.payload),
    };
    Some(Answer { to, result })
}
