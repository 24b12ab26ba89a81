//! What the clients of a connection and the task that owns it share: bytes to be sent, subscriptions, requests.
//!
//! A publish appends its bytes here and wakes the task. While there is no connection, what is published is kept, up to
//! the bound of the buffer, and sent on the next one, unless the client refuses it; what was handed to a connection
//! that broke is lost with it, as no one can know whether the server has it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::{Notify, oneshot, watch};

use super::options::{Event, Link, Loss, Options, Statistics};
use super::queue::{Pushed, Queue};
use super::subscription::{End, Subscription};
use crate::nats::decode::ServerInfo;
use crate::nats::encode::{self, InvalidSubject, Publish};
use crate::nats::message::Message;

/// The number of the subscription to which all requests are answered.
pub(super) const REPLIES: u64 = 0;
/// PINGs on their way, at most.
const MAX_ROUNDS: usize = 16;
/// The largest `max_payload` that is believed: nats-server allows no more (`MAX_PAYLOAD_MAX_SIZE`).
const MAX_PAYLOAD: usize = 64 << 20;
/// What a server takes before the first one has said.
const DEFAULT_MAX_PAYLOAD: usize = 1 << 20;

pub(super) struct Shared {
    pub(super) options: Options,
    /// All requests are answered to subjects below it.
    pub(super) reply_prefix: String,
    pub(super) link: watch::Sender<Link>,
    /// Publishers wait here while the buffer is full.
    pub(super) room: Notify,
    /// Tells the task that the last client was dropped.
    pub(super) closing: Notify,
    max_payload: AtomicUsize,
    received: AtomicU64,
    malformed: AtomicU64,
    dropped: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// To be sent.
    out: Vec<u8>,
    connected: bool,
    closed: bool,
    /// The connection is given up at once.
    reconnect: bool,
    /// It is given up as soon as everything is sent; nothing new is begun on it.
    retiring: Option<Retirement>,
    /// The task that owns the connection, while it sleeps.
    waker: Option<Waker>,
    next_sid: u64,
    next_request: u64,
    subscriptions: HashMap<u64, Subscription>,
    requests: HashMap<u64, oneshot::Sender<Message>>,
    /// What the next PING is for.
    round: Round,
    /// What the PINGs that were sent were for, in their order.
    rounds: VecDeque<Round>,
}

/// What is finished when the server has answered a PING.
#[derive(Default)]
struct Round {
    flushed: Vec<oneshot::Sender<()>>,
    /// Subscriptions that were ended before it.
    drained: Vec<u64>,
}

/// How far a connection is that is to be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retirement {
    /// What lasts as long as it is being ended.
    Ending,
    /// The server has sent what there was for it.
    Ended,
}

impl Round {
    fn is_empty(&self) -> bool {
        self.flushed.is_empty() && self.drained.is_empty()
    }
}

impl Shared {
    pub(super) fn new(options: Options, reply_prefix: String) -> Self {
        Self {
            options,
            reply_prefix,
            link: watch::Sender::new(Link::default()),
            room: Notify::new(),
            closing: Notify::new(),
            max_payload: AtomicUsize::new(DEFAULT_MAX_PAYLOAD),
            received: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// No caller's code runs under the lock: what a panic left is whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self, event: &Event) {
        (self.options.on_event)(event);
    }

    pub(super) fn max_payload(&self) -> usize {
        self.max_payload.load(Ordering::Relaxed)
    }

    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            received: self.received.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Takes note of what a server says of itself.
    pub(super) fn note(&self, info: &ServerInfo) {
        if info.max_payload > 0 {
            self.max_payload.store(info.max_payload.min(MAX_PAYLOAD), Ordering::Relaxed);
        }
        if info.is_lame_duck {
            self.event(&Event::LameDuck);
        }
    }

    /// There is a connection: all subscriptions are renewed on it before anything that was kept is sent.
    pub(super) fn connected(&self) {
        let mut state = self.lock();
        let kept = std::mem::take(&mut state.out);
        let mut out = Vec::with_capacity(kept.len() + 64 * state.subscriptions.len());
        for (sid, subscription) in &state.subscriptions {
            // It was a subject before.
            let _ = subscription.encode(&mut out, *sid);
        }
        out.extend_from_slice(&kept);
        state.out = out;
        (state.connected, state.reconnect, state.retiring) = (true, false, None);
        drop(state);
        self.link.send_modify(|link| *link = Link { connected: true, epoch: link.epoch + 1 });
        self.event(&Event::Connected);
    }

    /// The connection is lost, and with it what was handed to it.
    pub(super) fn disconnected(&self, loss: Loss) {
        let mut state = self.lock();
        // One that was left in order had nothing more to send: what is there by now is for the next.
        if std::mem::take(&mut state.connected) {
            state.out = Vec::new();
        }
        state.retiring = None;
        let rounds = std::mem::take(&mut state.rounds);
        let last = std::mem::take(&mut state.round);
        let drained = rounds.into_iter().chain([last]).flat_map(|round| round.drained);
        let mut ended = drained.filter_map(|sid| state.subscriptions.remove(&sid)).collect::<Vec<_>>();
        let of_this_connection = state.subscriptions.extract_if(|_, subscription| subscription.end == End::Disconnect);
        ended.extend(of_this_connection.map(|(_, subscription)| subscription));
        drop(state);
        ended.iter().for_each(|subscription| subscription.queue.close());
        self.room.notify_waiters();
        self.link.send_modify(|link| link.connected = false);
        self.event(&Event::Disconnected(loss));
    }

    /// Gives a message to its subscription or request.
    pub(super) fn dispatch(&self, sid: u64, message: Message) {
        self.received.fetch_add(1, Ordering::Relaxed);
        if message.malformed().is_some() {
            self.malformed.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.lock();
        if sid == REPLIES {
            let number = message.subject().strip_prefix(&*self.reply_prefix).and_then(|number| number.parse().ok());
            let asked = number.and_then(|number: u64| state.requests.remove(&number));
            drop(state);
            // Who asked may have left.
            let _ = asked.map(|asked| asked.send(message));
            return;
        }
        let Some(subscription) = state.subscriptions.get(&sid) else { return };
        if subscription.end == End::FirstMessage {
            let ended = state.subscriptions.remove(&sid);
            drop(state);
            if let Some(subscription) = ended {
                // Its queue is empty, so there is room.
                subscription.queue.push(message);
                subscription.queue.close();
            }
            return;
        }
        match subscription.queue.push(message) {
            Pushed::Taken => {}
            Pushed::Dropped => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
            Pushed::OverflowBegins => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                let subject = subscription.subject.clone();
                drop(state);
                self.event(&Event::SlowSubscriber(subject));
            }
        }
    }

    /// The server has answered the oldest PING.
    pub(super) fn pong(&self) {
        let mut state = self.lock();
        let Some(Round { flushed, drained }) = state.rounds.pop_front() else { return };
        let ended = drained.iter().filter_map(|sid| state.subscriptions.remove(sid)).collect::<Vec<_>>();
        drop(state);
        ended.iter().for_each(|subscription| subscription.queue.close());
        // Who asked may have left.
        for waiting in flushed {
            let _ = waiting.send(());
        }
    }
}

impl State {
    /// Whether a publisher may add to the buffer.
    pub(super) fn has_room(&self, options: &Options) -> bool {
        self.out.len() < options.write_buffer
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Appends a message.
    pub(super) fn publish(&mut self, message: &Publish<'_>) -> Result<(), InvalidSubject> {
        encode::publish(&mut self.out, message)?;
        self.wake();
        Ok(())
    }

    /// Adds a subscription under a number of its own. One that lasts as long as a connection is over at once without
    /// one.
    pub(super) fn subscribe(&mut self, subscription: Subscription) -> Result<u64, InvalidSubject> {
        self.next_sid += 1;
        let sid = self.next_sid;
        if subscription.end == End::Disconnect && (!self.connected || self.retiring.is_some()) {
            subscription.queue.close();
        } else {
            self.add(sid, subscription)?;
        }
        Ok(sid)
    }

    /// Makes sure that requests can be answered.
    pub(super) fn expect_replies(&mut self, options: &Options, prefix: &str) -> Result<(), InvalidSubject> {
        if self.subscriptions.contains_key(&REPLIES) {
            return Ok(());
        }
        let queue = Arc::new(Queue::new(options.queue));
        self.add(REPLIES, Subscription::new(&format!("{prefix}*"), None, End::Never, queue))
    }

    fn add(&mut self, sid: u64, subscription: Subscription) -> Result<(), InvalidSubject> {
        // Without a connection it is enough to know of it.
        let mut unsent = Vec::new();
        let out = if self.connected { &mut self.out } else { &mut unsent };
        subscription.encode(out, sid)?;
        self.subscriptions.insert(sid, subscription);
        self.wake();
        Ok(())
    }

    /// Ends a subscription; nothing that arrives later is given to it.
    pub(super) fn unsubscribe(&mut self, sid: u64) {
        if let Some(subscription) = self.subscriptions.remove(&sid) {
            subscription.queue.close();
            self.say_unsubscribe(sid);
        }
    }

    /// Ends a subscription; what the server sent before it heard of that is still given to it.
    pub(super) fn drain(&mut self, sid: u64) {
        if self.connected && self.subscriptions.contains_key(&sid) {
            self.say_unsubscribe(sid);
            self.round.drained.push(sid);
        } else {
            self.unsubscribe(sid);
        }
    }

    fn say_unsubscribe(&mut self, sid: u64) {
        if self.connected {
            encode::unsubscribe(&mut self.out, sid);
            self.wake();
        }
    }

    /// A request's number, and where its answer will come.
    pub(super) fn request(&mut self) -> (u64, oneshot::Receiver<Message>) {
        let (sender, receiver) = oneshot::channel();
        self.next_request += 1;
        self.requests.insert(self.next_request, sender);
        (self.next_request, receiver)
    }

    pub(super) fn open_requests(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn forget_request(&mut self, number: u64) {
        self.requests.remove(&number);
    }

    /// What ends when the server has taken everything that was said so far.
    pub(super) fn flush(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.round.flushed.retain(|waiting| !waiting.is_closed());
        self.round.flushed.push(sender);
        self.wake();
        receiver
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.wake();
    }

    pub(super) fn reconnect(&mut self) {
        if self.connected {
            self.reconnect = true;
            self.wake();
        }
    }

    /// Lets nothing begin that lasts as long as this connection. Whether there is one.
    pub(super) fn retire(&mut self) -> bool {
        if self.connected {
            self.retiring = Some(Retirement::Ending);
        }
        self.connected
    }

    /// Ends what lasts as long as a connection that retires; what the server sent for it still comes, before the answer to
    /// the next flush. Whether there is such a connection still.
    pub(super) fn end_subscriptions(&mut self) -> bool {
        if self.retiring.is_none() {
            return false;
        }
        let ends = self.subscriptions.iter().filter(|(_, subscription)| subscription.end == End::Disconnect);
        for sid in ends.map(|(sid, _)| *sid).collect::<Vec<_>>() {
            self.say_unsubscribe(sid);
        }
        true
    }

    /// A connection that retires is left when everything is sent.
    pub(super) fn leave(&mut self) {
        if let Some(retiring) = &mut self.retiring {
            *retiring = Retirement::Ended;
            self.wake();
        }
    }

    /// Everything is sent but what is here. Whether the connection is left now; what comes later is for the next one.
    pub(super) fn leaves(&mut self) -> bool {
        let leaves = self.retiring == Some(Retirement::Ended) && self.out.is_empty();
        if leaves {
            self.connected = false;
        }
        leaves
    }

    /// The task is about to work: it is to be woken for whatever happens from now on.
    pub(super) fn begin_turn(&mut self, waker: &Waker) -> Result<(), Loss> {
        if self.closed {
            return Err(Loss::Closed);
        }
        if std::mem::take(&mut self.reconnect) {
            return Err(Loss::Requested);
        }
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
        Ok(())
    }

    /// Exchanges an empty buffer for what is to be sent.
    pub(super) fn take_output(&mut self, empty: &mut Vec<u8>) {
        if !self.round.is_empty() && self.rounds.len() < MAX_ROUNDS {
            self.ping();
        }
        std::mem::swap(&mut self.out, empty);
    }

    /// Asks the server for a sign of life.
    pub(super) fn ping(&mut self) {
        encode::ping(&mut self.out);
        let round = std::mem::take(&mut self.round);
        self.rounds.push_back(round);
    }

    /// Answers the server, unless it does not read.
    pub(super) fn answer_ping(&mut self, options: &Options) {
        if self.connected && self.has_room(options) {
            encode::pong(&mut self.out);
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
