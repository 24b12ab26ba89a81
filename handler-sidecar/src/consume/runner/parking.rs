//! What a discipline wants done about parked events.

use std::collections::HashMap;

use tidegate_broker_client::held_key::Mark;
use tidegate_broker_client::{layout, stored};
use tidegate_delivery_core::{Action, Arrival, FetchResult, Id, Input, Key, Lane, ParkResult, Pin};
use tidegate_wire::nats::{HeaderBlock, Publish};
use tokio::time::Instant;

use super::Runner;
use super::questions::Question;
use crate::broker::message::Message;
use crate::broker::parked::copies::{self, Copy};
use crate::broker::parked::lease;
use crate::broker::parked::list::{Listing, MAX_KEYS};
use crate::broker::parked::mark;
use crate::settle::outcome::Reason;
use crate::settle::shelf;

/// The headers of an atomic batch (ADR-50).
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// A place in a batch.
struct Member<'a> {
    /// The batch.
    name: &'a str,
    /// From 1 on.
    number: usize,
    /// The broker stores the batch with this one.
    is_last: bool,
}

/// What the marks of keys will say that are to be held.
pub type Marks = HashMap<(Lane, Key), Mark>;

impl<F> Runner<'_, F> {
    pub(super) fn perform_parking(&mut self, action: Action) {
        match action {
            Action::Park { events } => self.park(&events),
            Action::Fetch { lane, key, again } => self.read(lane, key, again),
            Action::Unpark { id } => {
                let subject = layout::local_retry_delete_subject(&self.context.config.handler);
                self.ask(Question::Unpark(id), &subject, &copies::remove(id.delivery));
            }
            Action::List(lane, section) => {
                self.list(Listing::new(&self.context.config.handler, lane, section));
            }
            Action::FindMark { lane, key } => self.find_mark(lane, key),
            Action::FindLast { lane, key } => self.find_last(lane, key),
            Action::TakeLease { lane, over } => self.take_lease(lane, over),
            Action::FreeLease { lane, over } => self.free_lease(lane, over),
            Action::Detain { lane, key } => self.detain(lane, key),
            _ => {}
        }
    }

    /// What is learnt of parked events, as far as it concerns more than the discipline.
    pub(super) fn note(&mut self, input: &Input) {
        match input {
            Input::Parked(ids, ParkResult::Stored) => self.events.parked(ids),
            Input::Detained(lane, key, true) => drop(self.marks.remove(&(*lane, *key))),
            _ => {}
        }
    }

    /// Copies events to the shelf: one by itself, several as an atomic batch (ADR-50), of which the broker answers the
    /// last.
    fn park(&mut self, events: &[(Id, Key)]) {
        let ids: Vec<Id> = events.iter().map(|(id, _)| *id).collect();
        let name = format!("{:x}", fastrand::u64(..));
        for (number, (id, key)) in (1..).zip(events) {
            let is_last = number == events.len();
            let batch = (events.len() > 1).then_some(Member { name: &name, number, is_last });
            let event = self.events.get(*id).map(Message::stored).cloned();
            let (Some(headers), Some(event)) = (self.copy_headers(*id, batch.as_ref()), event) else {
                // Headers that are stored can be stored again. Without an answer nothing else of the lane would be copied.
                return self.input(Input::Parked(ids, ParkResult::Refused));
            };
            let subject = layout::parked_subject(&self.context.config.handler, id.lane, *key);
            let (headers, payload) = (Some(&headers), event.payload());
            let copy = Publish { subject: &subject, headers, payload, ..Publish::default() };
            if is_last {
                return self.ask_by(Question::Park(ids), &copy);
            }
            // Without the last one nothing of it is stored.
            if !self.line.send(&copy) {
                return self.questions.not_asked(Instant::now(), Question::Park(ids));
            }
        }
    }

    fn copy_headers(&self, id: Id, batch: Option<&Member<'_>>) -> Option<HeaderBlock> {
        let config = &self.context.config;
        let event = self.events.get(id)?;
        let record = event.record_for_copy(config.delivery.on_exhausted);
        let mut headers = shelf::compose(event, &config.incarnation(), &record).ok()?;
        if let Some(Member { name, number, is_last }) = batch {
            headers.append(BATCH_ID, name).ok()?;
            headers.append(BATCH_SEQUENCE, &number.to_string()).ok()?;
            if *is_last {
                headers.append(BATCH_COMMIT, "1").ok()?;
            }
        }
        Some(headers)
    }

    fn read(&mut self, lane: Lane, key: Key, again: bool) {
        let handler = &self.context.config.handler;
        let subject = layout::local_retry_read_subject(handler);
        let body = copies::read(&layout::parked_subject(handler, lane, key));
        self.ask(Question::Read(lane, key, again), &subject, &body);
    }

    /// A parked event is here.
    pub(super) fn fetched(&mut self, lane: Lane, key: Key, again: bool, copy: Copy) {
        let message = Message::parked(copy.message, copy.place, again, &self.context.budget);
        let bytes = message.bytes();
        let id = self.events.keep(lane, message);
        let arrived = Arrival { id, key, inbox: 0, pin: Pin::default(), bytes, is_settled: false };
        self.input(Input::Fetched(lane, key, FetchResult::Event(arrived)));
    }

    fn find_last(&mut self, lane: Lane, key: Key) {
        let handler = &self.context.config.handler;
        let subject = layout::local_retry_read_subject(handler);
        let body = copies::read_last(&layout::parked_subject(handler, lane, key));
        self.ask(Question::FindLast(lane, key), &subject, &body);
    }

    fn find_mark(&mut self, lane: Lane, key: Key) {
        let handler = &self.context.config.handler;
        let subject = layout::local_retry_read_subject(handler);
        let body = copies::read_last(&layout::held_subject(handler, lane, key));
        self.ask(Question::FindMark(lane, key), &subject, &body);
    }

    /// Asks for what is not read yet of a list.
    pub(super) fn list(&mut self, listing: Listing) {
        let subject = layout::local_retry_info_subject(&self.context.config.handler);
        let body = listing.request();
        self.ask(Question::List(listing), &subject, &body);
    }

    fn take_lease(&mut self, lane: Lane, over: u64) {
        let subject = layout::lease_subject(&self.context.config.handler, lane);
        match lease::record(&self.name, false, over) {
            Some(record) => self.ask_by(Question::TakeLease(lane), &record.message(&subject)),
            None => self.questions.not_asked(Instant::now(), Question::TakeLease(lane)),
        }
    }

    /// Says that a lease is free. If that is not heard, the others wait until it is over.
    fn free_lease(&mut self, lane: Lane, over: u64) {
        let subject = layout::lease_subject(&self.context.config.handler, lane);
        let record = lease::record(&self.name, true, over);
        if !record.is_some_and(|record| self.line.send(&record.message(&subject))) {
            tracing::debug!(lane, "the lease of the shelf is not given up: it ends by itself");
        }
    }

    pub(super) fn read_lease(&mut self, lane: Lane) {
        let subject = layout::lease_read_subject(&self.context.config.handler, lane);
        self.ask(Question::ReadLease(lane, self.name.clone()), &subject, b"");
    }

    /// Puts aside what the mark of an event's key will say.
    pub(super) fn prepare_mark(&mut self, id: Id) {
        let Some(message) = self.events.get(id) else { return };
        let key = (id.lane, self.key(message));
        let event = stored::decode(message.stored(), message.payload()).ok();
        let name = event.map(|event| stored::partition_key(&event).to_owned());
        let mark = Mark::new(name, message.sequence(), message.held_for().map(Reason::name));
        tracing::warn!(lane = id.lane, ?mark, "a key is held until it is released");
        if self.marks.len() < MAX_KEYS {
            self.marks.insert(key, mark);
        }
    }

    /// Marks a key as held, where it is not.
    fn detain(&mut self, lane: Lane, key: Key) {
        let subject = layout::held_subject(&self.context.config.handler, lane, key);
        // Where nothing is prepared it says nothing, and holds the key as well.
        let unknown = Mark::default();
        match mark::over_none(self.marks.get(&(lane, key)).unwrap_or(&unknown)) {
            Some(mark) => self.ask_by(Question::Detain(lane, key), &mark.message(&subject)),
            None => self.questions.not_asked(Instant::now(), Question::Detain(lane, key)),
        }
    }
}
