//! An event of a Direct topic: one attempt, and no record of it. What the handler does not take is lost.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use tidegate_broker_client::stored;
use tidegate_delivery_core::{Disposition, Outcome};
use tidegate_telemetry::Instrument as _;

use crate::broker::message::Message;
use crate::consume::process::{Context, Outgoing, Ready};
use crate::deliver::answer::Answered;
use crate::deliver::post::Attempt;
use crate::event::filter::FilterResult;
use crate::event::request::{self, AttemptInfo};
use crate::ops::trace::PublishContext;
use crate::settle::outcome_log::Ending;

/// How long a reply is tried. What waits for it is in flight and keeps others out.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

impl Context {
    /// Takes one event to its end.
    pub async fn handle_once(&self, message: &Message) -> Disposition {
        Disposition::Over(match self.try_once(message).await {
            Ok(settled) => settled,
            Err(problem) => {
                tracing::debug!(problem, "an event is lost");
                Outcome::Failed
            }
        })
    }

    async fn try_once(&self, message: &Message) -> Result<Outcome, String> {
        let place = AttemptInfo { attempt: 1, sequence: None };
        match self.as_stored(message, place) {
            Some(Continue((outgoing, span))) => {
                let ready = Ready { outgoing, place, known: None };
                return self.deliver_once(message, ready).instrument(span).await;
            }
            Some(Break(settled)) => return Ok(settled),
            None => {}
        }
        let published = PublishContext::read(message.headers());
        let event = stored::decode(message.stored(), message.payload()).map_err(|invalid| invalid.to_string())?;
        match self.evaluate(&event).await {
            FilterResult::Passes => {}
            FilterResult::Excluded | FilterResult::Failed(_) => return Ok(Outcome::Filtered),
            // Nothing of a Direct topic is kept.
            FilterResult::TooCostly => return Ok(Outcome::Failed),
        }
        let event = request::extended(event, published, &self.config.topic, place)?;
        let span = self.traces.process(published, &event, place);
        let ready = Ready { outgoing: Outgoing::Event(Box::new(event)), place, known: None };
        self.deliver_once(message, ready).instrument(span).await
    }

    /// The one attempt, and the reply. An event that waits for its turn does so in a drain, too: it cannot go back.
    async fn deliver_once(&self, message: &Message, mut ready: Ready) -> Result<Outcome, String> {
        if let Some(limiter) = &self.options.limiter {
            limiter.turn().await;
        }
        let Answered { answer, content } = match self.attempt(message, &mut ready).await.0 {
            Attempt::Answered(answered) => answered,
            Attempt::Unreachable(why) => {
                self.availability.unreachable(&why);
                return Err(why);
            }
        };
        // What is not stored has no sequence; a random number tells it from others.
        let number = fastrand::u64(..);
        if !answer.is_success() {
            self.note_failure(number, message, Ending::Refused, answer.status(), &answer.to_string());
            return Err(answer.to_string());
        }
        self.outcomes.handled(number);
        self.publish_reply(&ready.outgoing, content, REPLY_TIMEOUT).await.map_err(|error| error.to_string())?;
        Ok(Outcome::Acknowledged)
    }
}
