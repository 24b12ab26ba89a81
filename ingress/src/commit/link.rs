//! The connection as the committer uses it: messages out, numbered answers in.

use std::sync::Arc;

use tidegate_broker_client::layout;
use tidegate_wire::nats::{
    self, Client, HeaderBlock, InvalidHeader, Publish, PublishError, SubscribeError, Subscriber,
};

use crate::message::Message;
use crate::outcome::{self, Acknowledged, Failure, Refusal};

/// How a server answers where no stream is there.
const NO_RESPONDERS: u16 = 503;
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
    message: Arc<Message>,
    /// Where it stands in its batch.
    member: Option<Member>,
}

/// A place in a batch.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// From 1 on.
    sequence: usize,
    /// The broker stores the batch with this message, and answers it.
    is_last: bool,
}

/// Why a message is not sent.
pub enum Unsent {
    /// Too much waits to be sent: try it again when there is [room](Link::room).
    Full(Outgoing),
    /// It never will be.
    Refused(Refusal),
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
    /// The connection that what was sent last was sent over.
    connection: nats::Link,
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
/// The inbox cannot be a subject.
pub fn open(client: Client) -> Result<(Link, Answers), SubscribeError> {
    let inbox = client.new_inbox();
    let answers = client.subscribe(&format!("{inbox}.*"), None)?;
    let batches = format!("{:x}", fastrand::u64(..));
    Ok((Link { client, connection: nats::Link::default(), inbox, batches }, Answers(answers)))
}

impl Link {
    /// Whether there is the connection that there was at the last call of [`Self::renew`].
    pub fn is_unbroken(&self) -> bool {
        self.connection.connected && self.client.current_link() == self.connection
    }

    /// From now on uses the connection that there is. Whether there is one.
    pub fn renew(&mut self) -> bool {
        self.connection = self.client.current_link();
        self.connection.connected
    }

    /// A message on its own.
    pub fn single(ticket: u64, message: Arc<Message>) -> Outgoing {
        Outgoing { subject: Subject::Single(ticket), message, member: None }
    }

    /// The messages of a batch, of which the broker answers the last.
    pub fn batch(number: u64, messages: Vec<Arc<Message>>) -> impl Iterator<Item = Outgoing> {
        let size = messages.len();
        (1..).zip(messages).map(move |(sequence, message)| {
            let member = Some(Member { sequence, is_last: sequence == size });
            Outgoing { subject: Subject::Batch(number), message, member }
        })
    }

    /// Waits until the client takes a message. Can be cancelled.
    pub async fn room(&self) {
        self.client.room().await;
    }

    /// Gives a message to the client.
    ///
    /// # Errors
    /// The client does not take it, or not now.
    pub fn send(&self, outgoing: Outgoing) -> Result<(), Unsent> {
        // The rest of a batch is nothing on another connection than its beginning.
        let sent = if self.is_unbroken() { self.publish(&outgoing) } else { Err(PublishError::Disconnected.into()) };
        sent.map_err(|error| match error {
            NotPublished::Client(PublishError::Full) => Unsent::Full(outgoing),
            NotPublished::Client(error) => Unsent::Refused(Refusal::of_client(outcome::of_client_error(&error))),
            NotPublished::Header(_) => Unsent::Refused(Refusal::of_client(Failure::Refused)),
        })
    }

    fn publish(&self, Outgoing { subject, message, member }: &Outgoing) -> Result<(), NotPublished> {
        let more_headers = match (subject, member) {
            (Subject::Batch(number), Some(member)) => Some(self.batch_headers(*number, *member)?),
            _ => None,
        };
        let is_answered = member.is_none_or(|member| member.is_last);
        let reply = is_answered.then(|| match subject {
            Subject::Single(ticket) => format!("{}.s{ticket}", self.inbox),
            Subject::Batch(number) => format!("{}.b{number}", self.inbox),
        });
        let publish = Publish { reply: reply.as_deref(), more_headers: more_headers.as_ref(), ..message.publish() };
        Ok(self.client.try_publish(&publish)?)
    }

    fn batch_headers(&self, number: u64, member: Member) -> Result<HeaderBlock, InvalidHeader> {
        let mut headers = HeaderBlock::new();
        headers.append(BATCH_ID, &format!("{}-{number:x}", self.batches))?;
        headers.append(BATCH_SEQUENCE, &member.sequence.to_string())?;
        if member.is_last {
            headers.append(BATCH_COMMIT, "1")?;
        }
        Ok(headers)
    }
}

/// Why the client does not take a message.
#[derive(Debug, thiserror::Error)]
enum NotPublished {
    #[error(transparent)]
    Client(#[from] PublishError),
    #[error(transparent)]
    Header(#[from] InvalidHeader),
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
fn read(message: &nats::Message) -> Option<Answer> {
    let token = message.subject().rsplit('.').next()?;
    let to = match (token.strip_prefix('s'), token.strip_prefix('b')) {
        (Some(ticket), _) => Subject::Single(ticket.parse().ok()?),
        (_, Some(number)) => Subject::Batch(number.parse().ok()?),
        (None, None) => return None,
    };
    let result = match message.status() {
        Some(NO_RESPONDERS) => Err(Refusal::of_client(Failure::Unavailable)),
        _ => outcome::of_reply(layout::EVENT_STREAM, message.payload()),
    };
    Some(Answer { to, result })
}
