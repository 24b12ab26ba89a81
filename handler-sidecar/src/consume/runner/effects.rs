//! What a discipline wants done, done; and what came, told to it. Nothing here waits.

use std::time::Duration;

use bytes::Bytes;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::delivery_info;
use tidegate_broker_client::{layout, stored};
use tidegate_delivery_core::{
    Action, Arrival, Close, Demand, Disposition, Id, InboxReport, Input, Key, Lane, Moment, Pin, Pull, SHELF, Trouble,
    millis,
};
use tidegate_telemetry::Span;
use tidegate_wire::nats::{self, Publish};
use tokio::time::Instant;

use super::Runner;
use super::questions::{Learnt, Question};
use crate::broker::line::{self, At, LineEvent};
use crate::broker::message::Message;
use crate::broker::pull;
use crate::consume::flight::FlightResult;

/// How long a question may take, so that another one fits into what is left of a lease.
pub fn patience(ack_wait: Duration) -> Duration {
    (ack_wait / 6).clamp(Duration::from_millis(100), Duration::from_secs(2))
}

/// What the broker says of a pull. An event has a subject for its acknowledgement, whatever its publisher wrote into
/// the first line of its headers; and of a subscription without a stream the broker says nothing.
fn status(message: &nats::Message, routing: Routing) -> Option<u16> {
    message.status().filter(|_| routing == Routing::Queued && message.reply().is_none())
}

/// The order in which what came is taken in: events as the broker delivered them, then what is said of their inboxes.
pub fn order(came: &LineEvent) -> (bool, u64) {
    match came {
        LineEvent::Message(_, message) => match message.reply().and_then(delivery_info::parse) {
            Some(info) => (false, info.number),
            None => (true, 0),
        },
        LineEvent::Closed(_) | LineEvent::Open(_) | LineEvent::Answer(..) => (true, 0),
    }
}

impl<F> Runner<'_, F> {
    pub(super) fn now(&self) -> Moment {
        millis(self.origin.elapsed())
    }

    /// Tells the discipline what happened.
    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        tracing::trace!(now, ?input, "discipline");
        self.discipline.input(now, input);
    }

    /// An attempt is over.
    pub(super) fn landed(&mut self, (id, disposition): FlightResult) {
        if let Some(disposition) = disposition {
            self.events.attempted(id, disposition);
        }
        if disposition == Some(Disposition::Detain) {
            self.prepare_mark(id);
        }
        self.input(Input::Attempted(id, disposition));
    }

    /// Takes in what came.
    pub(super) fn came(&mut self, came: LineEvent) {
        match came {
            LineEvent::Message(at, message) => self.message(at, message),
            LineEvent::Closed((lane, inbox)) => self.input(Input::Inbox(lane, inbox, InboxReport::Closed)),
            LineEvent::Open((lane, inbox)) => self.input(Input::Inbox(lane, inbox, InboxReport::Open)),
            LineEvent::Answer(number, answer) => {
                if let Some(learnt) = self.questions.answered(Instant::now(), number, &answer) {
                    self.learn(learnt);
                }
            }
        }
    }

    fn learn(&mut self, learnt: Learnt) {
        match learnt {
            Learnt::Input(input) => {
                self.note(&input);
                self.input(input);
            }
            Learnt::Parked(lane, key, again, copy) => self.fetched(lane, key, again, *copy),
            Learnt::List(listing) => self.list(listing),
            Learnt::Outrun(lane) => self.read_lease(lane),
        }
    }

    fn message(&mut self, (lane, inbox): At, message: nats::Message) {
        if let Some(code) = status(&message, self.context.config.routing) {
            let heard = pull::status::parse(code, message.description(), message.headers());
            return self.input(Input::Inbox(lane, inbox, heard));
        }
        let budget = &self.context.budget;
        let config = &self.context.config;
        let taken = match (config.routing, config.delivery.order) {
            (Routing::Queued, Order::None) if lane == SHELF => Message::shelved(message, budget),
            (Routing::Queued, _) => Message::lent(message, budget),
            (Routing::Direct, _) => Some(Message::direct(message, budget)),
        };
        let Some(message) = taken else {
            tracing::error!("a message that is neither an event nor a status came to the inbox of a pull");
            return self.input(Input::Inbox(lane, inbox, InboxReport::Alive));
        };
        let is_settled = {
            let (subject, sequence) = (message.stored().subject(), message.sequence());
            config.relocation.is_settled(subject, sequence, message.published_at())
        };
        let (key, pin, bytes) = (self.key(&message), self.pin(&message), message.bytes());
        let id = self.events.keep(lane, message);
        self.input(Input::Arrival(Arrival { id, key, inbox, pin, bytes, is_settled }));
    }

    /// The event's partition key, where that matters. What is no valid event is a key of its own: it will never get to
    /// a handler.
    pub(super) fn key(&self, message: &Message) -> Key {
        if !matches!(self.context.config.delivery.order, Order::Key { .. }) {
            return 0;
        }
        let stored = message.stored();
        match stored::read_in_place(&stored, |_, _| {}) {
            Some(event) => layout::key_digest(stored::partition_key_in_place(&event)),
            None => match stored::decode(stored, message.payload()) {
                Ok(event) => layout::key_digest(stored::partition_key(&event)),
                Err(_) => layout::key_digest(&message.sequence().to_string()),
            },
        }
    }

    /// The pin under which the event was lent, where that matters.
    fn pin(&mut self, message: &Message) -> Pin {
        if !matches!(self.context.config.delivery.order, Order::Key { .. }) {
            return Pin::default();
        }
        let pin = pull::pin(message.stored().header_block());
        if *self.pin != *pin {
            self.pin = pin.into();
        }
        self.pin.clone()
    }

    /// Does what is to be done, until there is nothing more.
    pub(super) fn act(&mut self, demand: &Demand) {
        loop {
            let (now, mut actions) = (self.now(), std::mem::take(&mut self.actions));
            self.discipline.actions(now, demand, &mut actions);
            let is_over = actions.is_empty();
            for action in actions.drain(..) {
                self.perform(action);
            }
            self.actions = actions;
            if is_over {
                return;
            }
        }
    }

    /// The end: what is here is given back, as far as the broker can be told.
    pub(super) fn abandon(&mut self) {
        self.flights.clear();
        loop {
            let mut actions = std::mem::take(&mut self.actions);
            self.discipline.abandon(&mut actions);
            if actions.is_empty() {
                return;
            }
            // What had come to an inbox that is closed is here then.
            actions.into_iter().for_each(|action| self.perform(action));
        }
    }

    fn perform(&mut self, action: Action) {
        tracing::trace!(?action, "discipline");
        match action {
            Action::Pull(pull) => self.pull(&pull),
            Action::Join(inbox) => self.join(inbox),
            Action::Confirm(inbox) => self.line.confirm((0, inbox)),
            Action::Close(lane, inbox, how) => self.close((lane, inbox), how),
            Action::Acknowledge { id, confirm: false } => {
                self.events.acknowledged(id);
                self.leaves(id, pull::ACKNOWLEDGE);
            }
            Action::Acknowledge { id, confirm: true } => {
                self.events.acknowledged(id);
                let question = Question::Acknowledge { id, _span: self.settling(id) };
                self.ask_about(id, question, pull::ACKNOWLEDGE);
            }
            Action::Renew { id, confirm: true } => self.ask_about(id, Question::Renew(id), pull::IN_PROGRESS),
            Action::Renew { id, confirm: false } => {
                if let Some(subject) = self.events.get(id).and_then(Message::acknowledgement) {
                    self.line.tell(subject, pull::IN_PROGRESS);
                }
            }
            Action::Hold { id, wait } => self.ask_about(id, Question::Renew(id), pull::give_back(wait)),
            Action::GiveBack { id, wait } => self.leaves(id, pull::give_back(wait)),
            Action::Drop(id) => self.events.let_go(id),
            Action::Park { .. } | Action::Fetch { .. } | Action::Unpark { .. } => self.perform_parking(action),
            Action::List(..) | Action::FindLast { .. } | Action::FindMark { .. } => self.perform_parking(action),
            Action::Detain { .. } | Action::TakeLease { .. } | Action::FreeLease { .. } => self.perform_parking(action),
            Action::Ask(lane) => {
                self.ask(Question::State(lane), &layout::local_info_subject(&self.consumer(lane)), b"");
            }
            Action::Reclaim { lane, delivered, sequences } => self.reclaim(lane, delivered, &sequences),
            Action::Announce(lanes) => {
                if let Some(shares) = &self.shares {
                    shares.announce(lanes);
                }
            }
            Action::Count(lane) => {
                self.ask(Question::Count(lane), &layout::local_info_subject(&self.consumer(lane)), b"");
            }
            Action::Unpin(lane) => {
                self.ask(Question::Unpin(lane), &layout::local_unpin_subject(&self.consumer(lane)), &pull::unpin());
            }
            Action::Reconnect => {
                tracing::warn!("the broker is silent: connecting again");
                self.line.reconnect();
            }
        }
    }

    fn consumer(&self, lane: Lane) -> String {
        let handler = &self.context.config.handler;
        match self.context.config.delivery.order {
            Order::Key { .. } => layout::lane_consumer(handler, lane),
            Order::None => handler.clone(),
        }
    }

    fn pull(&mut self, pull: &Pull) {
        let config = &self.context.config;
        let subject = match config.delivery.order {
            Order::None if pull.lane == SHELF => layout::retry_pull_subject(&config.handler),
            _ => layout::pull_subject(&self.consumer(pull.lane)),
        };
        let at = (pull.lane, pull.inbox);
        let body = pull::request(pull, self.context.client.max_payload());
        if !body.is_ok_and(|body| self.line.pull(at, &subject, &body)) {
            self.input(Input::Inbox(pull.lane, pull.inbox, InboxReport::Lost(Trouble::Congested)));
        }
    }

    /// Subscribes to each type that is asked for.
    fn join(&mut self, inbox: u64) {
        let config = &self.context.config;
        let mut subjects = layout::filter_subjects(&config.handler, &config.filter.types, None);
        // The rest is what is redriven, and here nothing is.
        subjects.retain(|subject| subject.starts_with("events."));
        if !self.line.join((0, inbox), &config.handler, subjects) {
            self.close((0, inbox), Close::AtOnce);
            self.input(Input::Inbox(0, inbox, InboxReport::Lost(Trouble::Congested)));
        }
    }

    fn close(&mut self, at: At, how: Close) {
        match how {
            Close::InOrder if self.line.drain(at) => {}
            Close::InOrder => self.input(Input::Inbox(at.0, at.1, InboxReport::Closed)),
            Close::AtOnce => {
                for message in self.line.close(at) {
                    self.message(at, message);
                }
            }
        }
    }

    /// Gives back what never came here: the broker takes a NAK for whatever it waits for. It takes one after the other,
    /// so that its answer to the last is for all.
    fn reclaim(&mut self, lane: Lane, delivered: u64, sequences: &[u64]) {
        tracing::debug!(lane, sequences = sequences.len(), "what the broker lent to no one is asked for");
        let consumer = self.consumer(lane);
        let subject = |sequence| layout::acknowledge_subject(&consumer, sequence, delivered);
        let Some((last, others)) = sequences.split_last() else { return };
        for sequence in others {
            self.line.tell(&subject(*sequence), pull::give_back(0));
        }
        self.ask(Question::Reclaim(lane), &subject(*last), &pull::give_back(0));
    }

    /// The span of telling the broker about an event.
    fn settling(&self, id: Id) -> Span {
        let headers = self.events.get(id).and_then(Message::headers);
        self.context.traces.settle(headers, self.events.how(id).name())
    }

    /// Tells the broker what became of an event, which leaves.
    fn leaves(&mut self, id: Id, told: Bytes) {
        let is_concluded = self.events.get(id).is_some_and(Message::is_concluded);
        let span = if is_concluded { Span::none() } else { self.settling(id) };
        if let Some(subject) = self.events.get(id).and_then(Message::acknowledgement) {
            self.line.tell(subject, told);
        }
        drop(span);
        self.events.let_go(id);
    }

    fn ask_about(&mut self, id: Id, question: Question, body: Bytes) {
        if let Some(subject) = self.events.get(id).and_then(Message::acknowledgement).map(str::to_owned) {
            self.ask(question, &subject, &body);
        }
    }

    /// Asks the broker something. Without a connection it is not even sent, or it would be later, when no one stands by
    /// it any more.
    pub(super) fn ask(&mut self, question: Question, subject: &str, body: &[u8]) {
        self.ask_by(question, &line::message(subject, None, body));
    }

    pub(super) fn ask_by(&mut self, question: Question, message: &Publish<'_>) {
        let number = self.questions.next();
        let connected = self.link.borrow().connected;
        let sent = connected && self.line.ask(number, message);
        self.questions.asked(Instant::now(), number, question, sent);
    }
}
