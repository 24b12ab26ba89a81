//! What a discipline wants done about parked events.

use tidegate_broker_client::layout;
use tidegate_delivery_core::{Action, Id, Input, Key, Lane, ParkResult};
use tidegate_wire::nats::{HeaderBlock, Publish};
use tokio::time::Instant;

use super::Runner;
use super::questions::Question;
use crate::broker::message::Message;
use crate::broker::parked;
use crate::settle::attempts::Record;
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

impl<F> Runner<'_, F> {
    pub(super) fn perform_parking(&mut self, action: Action) {
        match action {
            Action::Park { ids, key } => self.park(ids, key),
            Action::Fetch { lane, key, again } => self.read(lane, key, again),
            Action::Unpark { id } => {
                let subject = layout::local_retry_delete_subject(&self.context.config.handler);
                self.ask(Question::Unpark(id), &subject, &parked::remove(id.delivery));
            }
            Action::Mark { id } => self.mark(id),
            _ => {}
        }
    }

    /// Copies events to the shelf: one by itself, several as an atomic batch (ADR-50), of which the broker answers the
    /// last.
    fn park(&mut self, ids: Vec<Id>, key: Key) {
        let Some(last) = ids.last().copied() else { return };
        let name = format!("{:x}", fastrand::u64(..));
        for (number, id) in (1..).zip(&ids) {
            let batch = (ids.len() > 1).then(|| Member { name: &name, number, is_last: *id == last });
            let Some(headers) = self.copy_headers(*id, batch.as_ref()) else {
                // Headers that are stored can be stored again.
                return self.input(Input::Parked(ids, ParkResult::Refused));
            };
            let subject = layout::parked_subject(&self.context.config.handler, id.lane, key);
            let Some(event) = self.events.get(*id).map(Message::stored).cloned() else { return };
            let (headers, payload) = (Some(&headers), event.payload());
            let copy = Publish { subject: &subject, headers, payload, ..Publish::default() };
            if *id == last {
                return self.ask_by(Question::Park(ids), &copy);
            }
            // Without the last one nothing of it is stored.
            if !self.line.send(&copy) {
                return self.questions.not_asked(Instant::now(), Question::Park(ids));
            }
        }
    }

    fn copy_headers(&self, id: Id, batch: Option<&Member<'_>>) -> Option<HeaderBlock> {
        let event = self.events.get(id)?;
        let mut headers = shelf::compose(event, &self.context.config.handler_uid, &Record::default()).ok()?;
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
        let body = parked::read(&layout::parked_subject(handler, lane, key));
        self.ask(Question::Read(lane, key, again), &subject, &body);
    }

    /// Puts on record that an event is settled, in place of its attempts: there will be no other.
    fn mark(&mut self, id: Id) {
        let config = &self.context.config;
        let deliveries = self.events.get(id).map_or(1, Message::deliveries);
        let subject = layout::attempt_subject(&config.handler, &id.sequence.to_string());
        let record = Record::settled(&config.handler_uid, deliveries).of_event(id.stored);
        let Ok(body) = serde_json::to_vec(&record) else {
            return self.input(Input::Marked(id, false));
        };
        self.ask(Question::Mark(id), &subject, &body);
    }
}
