//! A client: handles that publish, ask and subscribe, and the task that owns the connection.

mod connect;
mod drive;
mod options;
mod queue;
mod state;
mod subscriber;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::connect::Connection;
pub use self::connect::{ConnectError, is_nonce};
use self::drive::Driver;
pub use self::options::{
    Credentials, Event, Identity, IdentityError, Link, Loss, Offline, Options, QueueLimits, ServerOrder, Statistics,
};
use self::queue::Queue;
use self::state::Shared;
pub use self::subscriber::Subscriber;
use self::subscription::{End, Subscription};
use super::encode::{InvalidSubject, Publish};
use super::message::Message;

/// A connection that lasted so long was a good one: after it the waits begin from the start.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);
/// The wait before the second attempt; it doubles from one to the next.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Requests that wait for an answer at a time, at most.
const MAX_REQUESTS: usize = 16 * 1024;
/// Without a message for so long, what was asked of a server has come.
const QUIET: Duration = Duration::from_millis(100);
/// How a server answers a request that no one is there for.
const NO_RESPONDERS: u16 = 503;

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// A subject cannot be one.
    #[error(transparent)]
    Subject(#[from] InvalidSubject),
    /// It is larger than the server takes.
    #[error("{size} bytes are more than the {max} that the server takes")]
    TooLarge {
        /// Headers and payload in bytes.
        size: usize,
        /// What the server takes.
        max: usize,
    },
    /// Too much waits to be sent; only [`Client::try_publish`] says so.
    #[error("too much waits to be sent")]
    Full,
    /// There is no connection, and the client keeps nothing for the next one ([`Offline::Refuse`]).
    #[error("there is no connection")]
    Disconnected,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It was not sent.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// No one is there who could answer.
    #[error("no one answers such requests")]
    NoResponders,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// Too many wait for an answer.
    #[error("too many requests wait for an answer")]
    TooMany,
}

/// Why there is no subscription.
pub type SubscribeError = InvalidSubject;

/// Why it is not known whether the server has taken everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection was lost")]
pub struct FlushError;

/// A handle of a connection; all its clones are handles of the same one. It ends when the last handle is dropped.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().close();
        self.shared.closing.notify_one();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.handle.shared.options).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects. Later losses are repaired in the background, without a limit of attempts.
    ///
    /// # Errors
    /// No server let the client in; each was tried once.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let first = connect::connect(&options).await?;
        Ok(Self::spawn(options, Some(first)))
    }

    /// Connects in the background, however long it takes.
    pub fn start(options: Options) -> Self {
        Self::spawn(options, None)
    }

    fn spawn(options: Options, first: Option<Connection>) -> Self {
        let shared = Arc::new(Shared::new(options, format!("_INBOX.{}.", random_token())));
        if let Some(first) = &first {
            shared.note(&first.info);
            shared.connected();
        }
        tokio::spawn(maintain(Arc::clone(&shared), first));
        Self { handle: Arc::new(Handle { shared }) }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Hands a message to the connection, and waits while too much waits to be sent. Without a connection it is kept
    /// for the next one, as long as there is room, or refused ([`Offline`]).
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn publish(&self, message: &Publish<'_>) -> Result<(), PublishError> {
        self.publish_or_keep(message, self.shared().options.offline).await
    }

    /// Publishes what is worth nothing later: without a connection it is refused, whatever [`Options::offline`] says.
    ///
    /// # Errors
    /// It cannot be sent, or not now.
    pub async fn publish_now(&self, message: &Publish<'_>) -> Result<(), PublishError> {
        self.publish_or_keep(message, Offline::Refuse).await
    }

    /// Publishes over the connection that there is, and waits for one while there is none. If it is dropped before
    /// that, nothing is sent later.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn publish_connected(&self, message: &Publish<'_>) -> Result<(), PublishError> {
        let mut link = self.link();
        loop {
            match self.publish_now(message).await {
                Err(PublishError::Disconnected) => {}
                done => return done,
            }
            // The sender lives as long as this client.
            let _ = link.wait_for(|link| link.connected).await;
        }
    }

    async fn publish_or_keep(&self, message: &Publish<'_>, offline: Offline) -> Result<(), PublishError> {
        loop {
            // A task that asks for the signal before it looks misses none.
            let room = self.shared().room.notified();
            match self.try_publish_or_keep(message, offline) {
                Err(PublishError::Full) => room.await,
                done => return done,
            }
        }
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// It cannot be sent, or not now.
    pub fn try_publish(&self, message: &Publish<'_>) -> Result<(), PublishError> {
        self.try_publish_or_keep(message, self.shared().options.offline)
    }

    fn try_publish_or_keep(&self, message: &Publish<'_>, offline: Offline) -> Result<(), PublishError> {
        let (size, max) = (message.size(), self.max_payload());
        if size > max {
            return Err(PublishError::TooLarge { size, max });
        }
        let mut state = self.shared().lock();
        if offline == Offline::Refuse && !state.is_connected() {
            return Err(PublishError::Disconnected);
        }
        if !state.has_room(&self.shared().options) {
            return Err(PublishError::Full);
        }
        Ok(state.publish(message)?)
    }

    /// Waits until [`Client::try_publish`] would not say [`PublishError::Full`]. Can be cancelled.
    pub async fn room(&self) {
        loop {
            // Who asks to be told before looking misses nothing.
            let room = self.shared().room.notified();
            if self.shared().lock().has_room(&self.shared().options) {
                return;
            }
            room.await;
        }
    }

    /// Publishes a message and waits for an answer to it; its own reply subject is not used. Without a connection it
    /// waits for one within its limit, or is refused ([`Offline`]): it is not sent when that is over.
    ///
    /// # Errors
    /// There is none.
    pub async fn request(&self, message: &Publish<'_>, limit: Duration) -> Result<Message, RequestError> {
        let answer = timeout(limit, self.ask(message)).await.map_err(|_| RequestError::TimedOut)??;
        if answer.status() == Some(NO_RESPONDERS) { Err(RequestError::NoResponders) } else { Ok(answer) }
    }

    async fn ask(&self, message: &Publish<'_>) -> Result<Message, RequestError> {
        let shared = self.shared();
        let (number, answer) = {
            let mut state = shared.lock();
            if state.open_requests() >= MAX_REQUESTS {
                return Err(RequestError::TooMany);
            }
            state.expect_replies(&shared.options, &shared.reply_prefix).map_err(PublishError::from)?;
            state.request()
        };
        let _open = OpenRequest { shared, number };
        let reply = format!("{}{number}", shared.reply_prefix);
        let asked = Publish { reply: Some(&reply), ..*message };
        match shared.options.offline {
            Offline::Keep => self.publish_connected(&asked).await?,
            Offline::Refuse => self.publish_now(&asked).await?,
        }
        // The sender lives in the table until the answer comes or this ends.
        answer.await.map_err(|_| RequestError::TimedOut)
    }

    /// Subscribes, as a member of a queue group where one is given.
    ///
    /// # Errors
    /// Subject or group cannot be one. What the server thinks of it comes as [`Event::ServerError`].
    pub fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscriber, SubscribeError> {
        self.subscribe_until(End::Never, subject, group)
    }

    /// Subscribes for the first message only: the server itself sends no second one, however many there are.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub fn subscribe_once(&self, subject: &str) -> Result<Subscriber, SubscribeError> {
        self.subscribe_until(End::FirstMessage, subject, None)
    }

    /// Subscribes until this connection is lost: the subscription is not renewed on the next one, so that what the
    /// server was asked to send here goes nowhere then. What came before the loss can still be taken. Without a
    /// connection it is over at once.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub fn subscribe_until_disconnect(&self, subject: &str) -> Result<Subscriber, SubscribeError> {
        self.subscribe_until(End::Disconnect, subject, None)
    }

    fn subscribe_until(&self, end: End, subject: &str, group: Option<&str>) -> Result<Subscriber, SubscribeError> {
        let queue = Arc::new(Queue::new(self.shared().options.queue));
        let sid = self.shared().lock().subscribe(Subscription::new(subject, group, end, Arc::clone(&queue)))?;
        Ok(Subscriber::new(self.clone(), sid, queue))
    }

    /// Waits until the server has taken in everything that was said before: a PING behind it was answered. Without a
    /// connection it waits for one.
    ///
    /// # Errors
    /// The connection was lost first.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let flushed = self.shared().lock().flush();
        flushed.await.map_err(|_| FlushError)
    }

    /// Gives up the connection and makes another.
    pub fn reconnect(&self) {
        self.shared().lock().reconnect();
    }

    /// Replaces the connection by another one, in order. [`Link::connected`] is false from the first moment, so that nothing
    /// more is asked of the server; what was asked for may still come for a while, then what lasts as long as the
    /// connection ends, and everything that is published is sent, over this one or the next. A server that takes longer
    /// than the limit is left at once.
    pub async fn renew(&self, limit: Duration) {
        let shared = self.shared();
        let mut link = shared.link.subscribe();
        let epoch = link.borrow().epoch;
        if !shared.lock().retire() {
            return;
        }
        shared.link.send_modify(|link| link.connected = false);
        let replaced = async {
            let _ = timeout(limit / 2, self.quiet()).await;
            let flushed = {
                let mut state = shared.lock();
                if !state.end_subscriptions() {
                    return;
                }
                state.flush()
            };
            let _ = flushed.await;
            shared.lock().leave();
            // The sender lives as long as this client.
            let _ = link.wait_for(|link| link.connected && link.epoch != epoch).await;
        };
        if timeout(limit, replaced).await.is_err() && self.current_link().epoch == epoch {
            self.reconnect();
        }
    }

    /// Waits until nothing has come for a moment.
    async fn quiet(&self) {
        let mut received = self.statistics().received;
        loop {
            sleep(QUIET).await;
            let now = self.statistics().received;
            if std::mem::replace(&mut received, now) == now {
                return;
            }
        }
    }

    /// A subject of its own for answers, which no one can guess.
    pub fn new_inbox(&self) -> String {
        format!("_INBOX.{}", random_token())
    }

    /// The state of the connection, from now on.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared().link.subscribe()
    }

    /// The state of the connection at this moment.
    pub fn current_link(&self) -> Link {
        *self.shared().link.borrow()
    }

    /// The most bytes of headers and payload that the server takes.
    pub fn max_payload(&self) -> usize {
        self.shared().max_payload()
    }

    /// What was counted since the start.
    pub fn statistics(&self) -> Statistics {
        self.shared().statistics()
    }
}

/// A request in the table; it leaves it however the wait ends.
struct OpenRequest<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.shared.lock().forget_request(self.number);
    }
}

/// Keeps a connection until the last client is dropped.
async fn maintain(shared: Arc<Shared>, first: Option<Connection>) {
    let mut next = first;
    let mut failures = 0;
    loop {
        let connection = match next.take() {
            Some(connection) => connection,
            None => {
                let made = tokio::select! {
                    biased;
                    () = shared.closing.notified() => return,
                    made = connect_at_last(&shared, &mut failures) => made,
                };
                shared.note(&made.info);
                shared.connected();
                made
            }
        };
        let began = tokio::time::Instant::now();
        let loss = Driver::new(connection.stream, connection.decoder, &shared).run().await;
        failures = if began.elapsed() < GOOD_CONNECTION { failures + 1 } else { 0 };
        shared.disconnected(loss);
        if shared.lock().is_closed() {
            return;
        }
    }
}

/// Tries until there is a connection.
async fn connect_at_last(shared: &Shared, failures: &mut u32) -> Connection {
    loop {
        if *failures > 0 {
            sleep(wait(*failures, fastrand::f64())).await;
        }
        match connect::connect(&shared.options).await {
            Ok(connection) => return connection,
            Err(error) => shared.event(&Event::ConnectFailed(error)),
        }
        *failures += 1;
    }
}

/// The wait after so many failures: doubled each time, and shortened at random by up to a half, so that the clients of
/// a server that restarts do not all come at once.
fn wait(failures: u32, random: f64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(MAX_WAIT).mul_f64(1.0 - random / 2.0)
}

/// 128 bits that no one can guess, as text.
fn random_token() -> String {
    let mut bytes = [0; 16];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // The kernel has no randomness: names have to differ all the same.
        fastrand::fill(&mut bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
