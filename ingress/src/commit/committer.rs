//! The task between publishers and broker: it does what the ledger says.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use futures::FutureExt as _;
use tidegate_broker_client::contract::Flush;
use tidegate_wire::nats::Client;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::ledger::{Action, Ledger, Outcome, Publish, Ticket};
use super::link::{self, Answer, Link, Outgoing, Subject, Unsent};
use super::pool::Pool;
use super::progress::{Mark, Progress};
use super::rule::Rule;
use crate::alarm::Alarm;
use crate::message::Message;
use crate::outcome::{Failure, Refusal, Stored};

/// Answers and submissions that are taken before the next look at what is to be sent.
const TURN: usize = 1024;

/// Publishes the events of a topic with a stream.
pub struct Committer {
    submissions: mpsc::UnboundedSender<Submission>,
    /// For all that wait or are under way, of all topics: this is what bounds the channel.
    pool: Arc<Pool>,
    /// What this topic may take of it; `None`: all.
    own: ArcSwapOption<Pool>,
    _task: AbortOnDropHandle<()>,
}

/// A message that was submitted.
pub struct PendingOutcome(oneshot::Receiver<Outcome>);

struct Submission {
    deadline: Instant,
    publishes: Vec<PendingMessage>,
}

/// Those of a message.
type Permits = [Option<OwnedSemaphorePermit>; 2];

/// A publish that is not settled.
struct PendingMessage {
    /// `None`: it is sent, and will not be again.
    message: Option<Arc<Message>>,
    publisher: oneshot::Sender<Outcome>,
    /// How far the stream was when it was sent last.
    mark: Mark,
    _permits: (Permits, Option<Permits>),
}

impl Committer {
    /// Over this connection, to a broker that stores like `flush` says at the moment. What waits or is under way takes room
    /// in the pool. How far the stream is goes out by the alarm.
    pub fn new(
        client: Client,
        mut flush: watch::Receiver<Flush>,
        timeout: Duration,
        pool: Arc<Pool>,
        alarm: Arc<Alarm>,
    ) -> Self {
        let (submissions, submitted) = mpsc::unbounded_channel();
        let ledger = Ledger::new(Rule::new(*flush.borrow_and_update()), timeout);
        let task = AbortOnDropHandle::new(tokio::spawn(run(client, ledger, submitted, flush, alarm)));
        Self { submissions, pool, own: ArcSwapOption::empty(), _task: task }
    }

    /// From now on it takes no more of the pool than half of it, or all.
    pub fn set_alone(&self, is_alone: bool) {
        if is_alone != self.own.load().is_none() {
            self.own.store((!is_alone).then(|| Arc::new(self.pool.half())));
        }
    }

    /// How many messages may be submitted at once.
    pub fn most(&self) -> usize {
        self.own.load().as_ref().map_or(self.pool.most(), |own| own.most())
    }

    /// Submits the messages of a request, as soon as there is room for them. They are stored in this order, and after
    /// those that were submitted before; after a failure of one of them none that has not been sent is.
    ///
    /// # Errors
    /// There was no room before `deadline`.
    pub async fn submit(&self, messages: Vec<Message>, deadline: Instant) -> Result<Vec<PendingOutcome>, Failure> {
        let sizes: Vec<u32> = messages.iter().map(kibibytes).collect();
        let all = sizes.iter().fold(0_u32, |all, size| all.saturating_add(*size));
        let own = self.own.load_full();
        let taking = async {
            // The topic's own first: what waits for that takes nothing of what is for all.
            let own = match &own {
                Some(own) => Some(own.take(sizes.len(), all).await?),
                None => None,
            };
            Ok((own, self.pool.take(sizes.len(), all).await?))
        };
        let taken = timeout_at(deadline, taking).await.map_err(|_| Failure::Timeout)?;
        let (mut own, mut taken) = taken.map_err(|_: AcquireError| Failure::Unavailable)?;
        let (mut publishes, mut submitted) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for (message, size) in messages.into_iter().zip(sizes) {
            let permits = (taken.split(size), own.as_mut().map(|own| own.split(size)));
            let (publisher, outcome) = oneshot::channel();
            let (message, mark) = (Some(Arc::new(message)), Mark::default());
            publishes.push(PendingMessage { message, publisher, mark, _permits: permits });
            submitted.push(PendingOutcome(outcome));
        }
        let sent = self.submissions.send(Submission { deadline, publishes });
        sent.map(|()| submitted).map_err(|_| Failure::Unavailable)
    }
}

/// The memory of a message.
fn kibibytes(message: &Message) -> u32 {
    u32::try_from(message.size() / 1024 + 1).unwrap_or(u32::MAX)
}

impl PendingOutcome {
    /// What became of it, as soon as that is known. It has a time in which it is.
    pub async fn outcome(self) -> Outcome {
        self.0.await.unwrap_or(Outcome::Failed(Failure::Unavailable))
    }
}

struct Driver {
    ledger: Ledger,
    link: Link,
    held: HashMap<Ticket, PendingMessage>,
    /// What the ledger wants sent. It says no more before this is empty.
    outbox: VecDeque<Outgoing>,
    hasher: RandomState,
    progress: Progress,
    alarm: Arc<Alarm>,
}

async fn run(
    client: Client,
    ledger: Ledger,
    mut submissions: mpsc::UnboundedReceiver<Submission>,
    mut flush: watch::Receiver<Flush>,
    alarm: Arc<Alarm>,
) {
    let mut connection = client.link();
    let Ok((link, mut answers)) = link::open(client) else { return };
    let (held, outbox, hasher) = (HashMap::new(), VecDeque::new(), RandomState::new());
    let mut driver = Driver { ledger, link, held, outbox, hasher, progress: Progress::default(), alarm };
    loop {
        let wake = [driver.ledger.wake_at(), driver.progress.due()].into_iter().flatten().min();
        tokio::select! {
            submission = submissions.recv() => match submission {
                Some(submission) => {
                    driver.submit(submission);
                    // Others that are ready submit theirs before anything is sent: then one write takes all of it.
                    yield_now().await;
                }
                None => return,
            },
            answer = answers.next() => match answer {
                Some(answer) => driver.answered(answer),
                None => return,
            },
            () = driver.link.room(), if !driver.outbox.is_empty() => {}
            // What was in a batch when the connection was lost is sent again as soon as there is another.
            changed = connection.changed() => match changed {
                Ok(()) => {}
                Err(_) => return,
            },
            Ok(()) = flush.changed() => driver.ledger.set_flush(*flush.borrow_and_update()),
            () = at(wake) => {}
        }
        // Whatever else is there comes before the next look at what is to be sent: then it can go together.
        for _ in 0..TURN {
            let Ok(submission) = submissions.try_recv() else { break };
            driver.submit(submission);
        }
        for _ in 0..TURN {
            let Some(Some(answer)) = answers.next().now_or_never() else { break };
            driver.answered(answer);
        }
        driver.advance();
        driver.report();
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn at(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

impl Driver {
    fn submit(&mut self, Submission { deadline, publishes }: Submission) {
        // It came after the loss of an earlier connection, and does not end with that.
        self.follow_connection();
        let known = |held: &PendingMessage| {
            held.message
                .as_ref()
                .map(|message| Publish { id: self.hasher.hash_one(&message.message_id), size: message.size() })
        };
        let all: Vec<Publish> = publishes.iter().filter_map(known).collect();
        let first = self.ledger.submit(&all, deadline.into_std(), Instant::now().into_std());
        self.held.extend((first..).zip(publishes));
    }

    fn answered(&mut self, Answer { to, result }: Answer) {
        let now = Instant::now().into_std();
        let actions = match to {
            Subject::Single(ticket) => {
                if let Err(Refusal { failure: Failure::Refused, text, .. }) = &result {
                    tracing::warn!(error = %text, "the broker refused an event");
                }
                self.ledger.answered(ticket, result, now)
            }
            Subject::Batch(number) => {
                if let Err(Refusal { text, .. }) = &result {
                    tracing::debug!(reason = %text, "the broker refused a batch: its events are sent one by one");
                }
                self.ledger.batch_answered(number, result, now)
            }
        };
        self.perform(actions);
    }

    /// Ends what was under way on a connection that is lost, however short that was, and uses the next one. Whether
    /// there is one.
    fn follow_connection(&mut self) -> bool {
        if self.link.is_unbroken() {
            return true;
        }
        self.give_up_outbox();
        let actions = self.ledger.advance(Instant::now().into_std(), false, false);
        self.perform(actions);
        self.link.renew()
    }

    fn advance(&mut self) {
        if !self.follow_connection() {
            return;
        }
        self.send_outbox();
        let actions = self.ledger.advance(Instant::now().into_std(), true, self.outbox.is_empty());
        self.perform(actions);
        self.send_outbox();
    }

    /// Fails what was meant for a connection that is lost.
    fn give_up_outbox(&mut self) {
        for outgoing in std::mem::take(&mut self.outbox) {
            // The rest of a batch is nothing without its beginning, and the ledger knows what becomes of its events.
            if let Subject::Single(_) = outgoing.subject {
                self.answered(Answer { to: outgoing.subject, result: Err(Refusal::of_client(Failure::Unavailable)) });
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(ticket) => {
                    self.mark(ticket);
                    let message = self.held.get_mut(&ticket).and_then(|held| held.message.take());
                    self.outbox.extend(message.map(|message| Link::single(ticket, message)));
                }
                Action::SendBatch(number, members) => {
                    members.iter().for_each(|ticket| self.mark(*ticket));
                    let message = |ticket| self.held.get(ticket).and_then(|held: &PendingMessage| held.message.clone());
                    let messages: Vec<Arc<Message>> = members.iter().filter_map(message).collect();
                    self.outbox.extend(Link::batch(number, messages));
                }
                Action::Settle(ticket, outcome) => {
                    if let Some(held) = self.held.remove(&ticket) {
                        if let Outcome::Stored(Stored { sequence, duplicate: false }) = outcome {
                            self.progress.stored(held.mark, sequence, Instant::now().into_std(), unix_seconds);
                        }
                        // A publisher that is gone does not want to know.
                        let _ = held.publisher.send(outcome);
                    }
                }
            }
        }
    }

    fn mark(&mut self, ticket: Ticket) {
        if let Some(held) = self.held.get_mut(&ticket) {
            held.mark = self.progress.mark();
        }
    }

    /// Tells the operator how far the stream is, when that is due.
    fn report(&mut self) {
        let now = Instant::now().into_std();
        let Some((acknowledged, lost)) = self.progress.report(now) else { return };
        if !self.alarm.tell_progress(acknowledged, lost) {
            self.progress.not_reported(now);
        }
    }

    /// Gives messages to the client as long as it takes them.
    fn send_outbox(&mut self) {
        while let Some(outgoing) = self.outbox.pop_front() {
            let subject = outgoing.subject;
            // Its time may be over already. Its publisher has heard that it failed, so it is not sent.
            if matches!(subject, Subject::Single(ticket) if !self.held.contains_key(&ticket)) {
                continue;
            }
            match self.link.send(outgoing) {
                Ok(()) => {}
                Err(Unsent::Full(outgoing)) => {
                    self.outbox.push_front(outgoing);
                    return;
                }
                Err(Unsent::Refused(refusal)) => {
                    self.outbox.retain(|other| other.subject != subject);
                    self.answered(Answer { to: subject, result: Err(refusal) });
                }
            }
        }
    }
}
