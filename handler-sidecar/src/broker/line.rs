//! What the runner says to the broker and hears of it, over the connection: inboxes of pulls, the handler's group,
//! messages that need no answer, questions whose answers come later.
//!
//! Nothing here waits but [`Line::next`]. While the connection takes nothing (its queue is full, or it is gone), what
//! needs no answer is kept and sent later; pulls and questions are refused, because an answer to one that is sent
//! later would find no one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream as _};
use tidegate_delivery_core::Lane;
use tidegate_wire::nats::{Client, FlushError, Message, Publish, PublishError, Subscriber};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

/// Subscriptions of the group to which nothing came for so long are made again. One that was made while its account was
/// pushed may hear nothing, and nobody notices (docs/brokers.md, "Accounts of a broker").
const RENEWAL: Duration = Duration::from_secs(30);

/// An inbox of a lane.
pub type At = (Lane, u64);

/// What came.
#[derive(Debug)]
pub enum LineEvent {
    /// A message to an inbox.
    Message(At, Message),
    /// An inbox is closed: nothing more comes.
    Closed(At),
    /// The broker has the subscriptions of an inbox.
    Open(At),
    /// The answer to a question of this number.
    Answer(u64, Message),
}

struct Inbox {
    at: At,
    subject: String,
    subscriber: Subscriber,
    /// Of which it is a member, until it is closed or another one is in its place.
    group: Option<String>,
    /// Whether anything came since the last renewal.
    has_heard: bool,
}

/// Where answers come to; subscribed to with the first question.
struct Answers {
    prefix: String,
    subscriber: Subscriber,
}

/// The line.
pub struct Line {
    client: Client,
    inboxes: Vec<Inbox>,
    answers: Option<Answers>,
    /// The inbox of which the broker is asked whether it has its subscriptions.
    confirming: Option<(At, BoxFuture<'static, Result<(), FlushError>>)>,
    /// What the connection has not taken yet.
    kept: VecDeque<(String, Bytes)>,
    /// The inbox that is looked at first.
    turn: usize,
    /// When those of the group are made again.
    renewal: Interval,
}

/// A message without headers.
pub fn message<'a>(subject: &'a str, reply: Option<&'a str>, payload: &'a [u8]) -> Publish<'a> {
    Publish { subject, reply, payload, ..Publish::default() }
}

impl Line {
    /// Over this connection.
    pub fn new(client: Client) -> Self {
        Self::renewing(client, RENEWAL)
    }

    fn renewing(client: Client, period: Duration) -> Self {
        let mut renewal = interval_at(Instant::now() + period, period);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { client, inboxes: Vec::new(), answers: None, confirming: None, kept: VecDeque::new(), turn: 0, renewal }
    }

    /// Sends a pull, whose events come to this inbox, which is opened first if it is not open. Whether it is sent. The
    /// inbox ends with the connection: over another one the broker would continue to serve pulls that no one counts any
    /// more.
    pub fn pull(&mut self, at: At, subject: &str, body: &[u8]) -> bool {
        // Kept for the next connection it would come without its inbox.
        if !self.client.current_link().connected {
            return false;
        }
        let index = match self.inboxes.iter().position(|inbox| inbox.at == at) {
            Some(index) => index,
            None => {
                let subject = self.client.new_inbox();
                let Ok(subscriber) = self.client.subscribe_until_disconnect(&subject) else { return false };
                self.inboxes.push(Inbox { at, subject, subscriber, group: None, has_heard: false });
                self.inboxes.len() - 1
            }
        };
        self.client.try_publish(&message(subject, Some(&self.inboxes[index].subject), body)).is_ok()
    }

    /// Subscribes to these subjects, as a member of a group. Whether they can be subscribed to.
    pub fn join(&mut self, at: At, group: &str, subjects: Vec<String>) -> bool {
        for subject in subjects {
            let Ok(subscriber) = self.client.subscribe(&subject, Some(group)) else { return false };
            self.inboxes.push(Inbox { at, subject, subscriber, group: Some(group.to_owned()), has_heard: false });
        }
        self.renewal.reset();
        true
    }

    /// Asks whether the broker has the subscriptions of an inbox: it has taken in everything that was said before.
    pub fn confirm(&mut self, at: At) {
        let client = self.client.clone();
        self.confirming = Some((at, async move { client.flush().await }.boxed()));
    }

    /// Closes an inbox as soon as what was sent to it is here ([`LineEvent::Closed`]). Whether it is open.
    pub fn drain(&mut self, at: At) -> bool {
        let mut is_open = false;
        for inbox in self.inboxes.iter_mut().filter(|inbox| inbox.at == at) {
            inbox.group = None;
            inbox.subscriber.drain();
            is_open = true;
        }
        is_open
    }

    /// Closes an inbox at once. Returns what had come to it.
    pub fn close(&mut self, at: At) -> Vec<Message> {
        let mut come = Vec::new();
        for mut inbox in self.inboxes.extract_if(.., |inbox| inbox.at == at) {
            while let Some(Some(message)) = inbox.subscriber.next().now_or_never() {
                come.push(message);
            }
        }
        come
    }

    /// Tells the broker something that needs no answer.
    pub fn tell(&mut self, subject: &str, body: Bytes) {
        let full = !self.kept.is_empty()
            || match self.client.try_publish(&message(subject, None, &body)) {
                Err(PublishError::Full) => true,
                Err(error) => {
                    not_settled(error);
                    false
                }
                Ok(()) => false,
            };
        if full {
            self.kept.push_back((subject.to_owned(), body));
        }
    }

    /// Sends a message to which there is no answer. Whether it is sent.
    pub fn send(&self, message: &Publish<'_>) -> bool {
        self.client.current_link().connected && self.client.try_publish(message).is_ok()
    }

    /// Asks the broker something by this message. Whether it is sent.
    pub fn ask(&mut self, number: u64, question: &Publish<'_>) -> bool {
        let answers = match &mut self.answers {
            Some(answers) => answers,
            none => {
                let prefix = self.client.new_inbox();
                let Ok(subscriber) = self.client.subscribe(&format!("{prefix}.*"), None) else { return false };
                none.insert(Answers { prefix, subscriber })
            }
        };
        let reply = format!("{}.{number}", answers.prefix);
        self.client.try_publish(&Publish { reply: Some(&reply), ..*question }).is_ok()
    }

    /// Connects again.
    pub fn reconnect(&mut self) {
        self.client.reconnect();
    }

    /// The next that comes. Cancelling it loses nothing.
    pub async fn next(&mut self) -> LineEvent {
        loop {
            let Self { client, inboxes, answers, confirming, kept, turn, renewal } = self;
            let is_kept = !kept.is_empty();
            let is_member = inboxes.iter().any(|inbox| inbox.group.is_some());
            tokio::select! {
                biased;
                () = send(client, kept), if is_kept => {}
                _ = renewal.tick(), if is_member => renew(client, inboxes),
                came = poll_fn(|cx| poll_all(inboxes, answers, confirming, turn, cx)) => return came,
            }
        }
    }

    /// What has come already.
    pub fn next_now(&mut self) -> Option<LineEvent> {
        let Self { inboxes, answers, confirming, turn, .. } = self;
        poll_fn(|cx| poll_all(inboxes, answers, confirming, turn, cx)).now_or_never()
    }

    /// Sends everything, within this time. Whether the broker has taken it in.
    pub async fn flush(&mut self, limit: Duration) -> bool {
        let Self { client, kept, .. } = self;
        let flushed = async {
            send(client, kept).await;
            client.flush().await
        };
        matches!(timeout(limit, flushed).await, Ok(Ok(())))
    }
}

/// Sends what was kept, in its order. Cancelling it loses nothing.
async fn send(client: &Client, kept: &mut VecDeque<(String, Bytes)>) {
    while let Some((subject, body)) = kept.front() {
        if let Err(error) = client.publish(&message(subject, None, body)).await {
            not_settled(error);
        }
        kept.pop_front();
    }
}

/// Subscribes anew in the place of each subscription of a group that is silent, which ends when what was sent to it is here.
/// The group has a member here at every moment, and each event goes to one of its members. What the server is just sending
/// when a subscription ends is lost, so one that hears is left alone.
fn renew(client: &Client, inboxes: &mut Vec<Inbox>) {
    // The next connection subscribes anew by itself.
    if !client.current_link().connected {
        return;
    }
    for index in 0..inboxes.len() {
        let inbox = &mut inboxes[index];
        if std::mem::take(&mut inbox.has_heard) {
            continue;
        }
        let Some(group) = inbox.group.take() else { continue };
        let Ok(subscriber) = client.subscribe(&inbox.subject, Some(&group)) else {
            inbox.group = Some(group);
            continue;
        };
        inbox.subscriber.drain();
        let (at, subject) = (inbox.at, inbox.subject.clone());
        inboxes.push(Inbox { at, subject, subscriber, group: Some(group), has_heard: false });
    }
}

fn not_settled(error: PublishError) {
    tracing::warn!(%error, "an event was not settled: the broker delivers it again");
}

fn poll(subscriber: &mut Subscriber, cx: &mut Context<'_>) -> Poll<Option<Message>> {
    std::pin::Pin::new(subscriber).poll_next(cx)
}

/// Looks at all, each time another one first.
fn poll_all(
    inboxes: &mut Vec<Inbox>,
    answers: &mut Option<Answers>,
    confirming: &mut Option<(At, BoxFuture<'static, Result<(), FlushError>>)>,
    turn: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<LineEvent> {
    if let Some(Answers { prefix, subscriber }) = answers {
        while let Poll::Ready(Some(message)) = poll(subscriber, cx) {
            let number = message.subject().get(prefix.len() + 1..).and_then(|number| number.parse().ok());
            if let Some(number) = number {
                return Poll::Ready(LineEvent::Answer(number, message));
            }
        }
    }
    if let Some((at, flush)) = confirming
        && let Poll::Ready(flushed) = flush.as_mut().poll(cx)
    {
        let at = *at;
        *confirming = None;
        // Otherwise the connection is lost, and the next one is asked over again.
        if flushed.is_ok() {
            return Poll::Ready(LineEvent::Open(at));
        }
    }
    *turn = turn.wrapping_add(1);
    for offset in 0..inboxes.len() {
        let index = (*turn).wrapping_add(offset) % inboxes.len();
        let at = inboxes[index].at;
        match poll(&mut inboxes[index].subscriber, cx) {
            Poll::Ready(Some(message)) => {
                inboxes[index].has_heard = true;
                return Poll::Ready(LineEvent::Message(at, message));
            }
            Poll::Ready(None) => {
                inboxes.swap_remove(index);
                let is_last = inboxes.iter().all(|inbox| inbox.at != at);
                if is_last {
                    return Poll::Ready(LineEvent::Closed(at));
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Pending => {}
        }
    }
    Poll::Pending
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
