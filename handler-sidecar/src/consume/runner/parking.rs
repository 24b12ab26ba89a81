//! What a discipline wants done about parked events.

use tidegate_broker_client::layout;
use tidegate_delivery_core::{Action, Id, Input, Key, Lane, ParkResult};
use tidegate_wire::nats::Publish;

use super::Runner;
use super::questions::Question;
use crate::broker::message::Message;
use crate::broker::parked;
use crate::settle::attempts::Record;
use crate::settle::shelf;

impl<F> Runner<'_, F> {
    pub(super) fn perform_parking(&mut self, action: Action) {
        match action {
            Action::Park { id, key } => self.park(id, key),
            Action::Fetch { lane, key, again } => self.read(lane, key, again),
            Action::Unpark { id } => {
                let subject = layout::local_retry_delete_subject(&self.context.config.handler);
                self.ask(Question::Unpark(id), &subject, &parked::remove(id.delivery));
            }
            Action::Mark { id } => self.mark(id),
            _ => {}
        }
    }

    /// Copies an event to the shelf.
    fn park(&mut self, id: Id, key: Key) {
        let config = &self.context.config;
        let subject = layout::parked_subject(&config.handler, id.lane, key);
        let event = self.events.get(id).map(Message::stored).cloned();
        let headers = self.events.get(id).map(|event| shelf::compose(event, &config.handler_uid, &Record::default()));
        let (Some(event), Some(Ok(headers))) = (event, headers) else {
            // Headers that are stored can be stored again.
            return self.input(Input::Parked(id, ParkResult::Refused));
        };
        let copy =
            Publish { subject: &subject, headers: Some(&headers), payload: event.payload(), ..Publish::default() };
        self.ask_by(Question::Park(id), &copy);
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
        let Ok(body) = serde_json::to_vec(&Record::settled(&config.handler_uid, deliveries)) else {
            return self.input(Input::Marked(id, false));
        };
        self.ask(Question::Mark(id), &subject, &body);
    }
}
