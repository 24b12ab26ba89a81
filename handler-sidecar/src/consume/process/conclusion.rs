//! What an answer means for its event, up to the disposition.

use std::future;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either};
use tidegate_delivery_core::{Disposition, Outcome};

use super::{Context, Judgement, Outgoing, REDELIVERY_DELAY, Ready};
use crate::broker::message::Message;
use crate::deliver::answer::{Answered, Content};
use crate::deliver::breaker::Blame;
use crate::settle::outcome::{self, Answer, Decision, Reason};
use crate::settle::outcome_log::Ending;
use crate::settle::reply;
use crate::settle::topic_publisher;

/// What a reply that is on its way has left, once a drain begins.
const REPLY_GRACE: Duration = Duration::from_secs(5);

impl Context {
    /// What an answer means for the event it was given to. Where that is more than an acknowledgement it is boxed,
    /// because it happens to few.
    pub(super) fn conclude<'a>(
        &'a self,
        stored: &'a Message,
        ready: Ready,
        answered: Answered,
        verdict: Judgement,
    ) -> Either<future::Ready<Disposition>, BoxFuture<'a, Disposition>> {
        let (retry, Judgement { class, blame }) = (&self.config.delivery.retry, verdict);
        let counted = ready.attempts().saturating_add(1);
        let settle = outcome::decide(&answered.answer, class, counted, blame, retry, fastrand::f64());
        self.workload.attempted(settle == Decision::Acknowledge);
        Either::Right(match settle {
            Decision::Acknowledge if self.options.reply.is_none() => {
                self.outcomes.handled(stored.sequence());
                return Either::Left(future::ready(Disposition::Over(Outcome::Acknowledged)));
            }
            Decision::Acknowledge => self.reply(stored, ready, answered).boxed(),
            Decision::RetryIn(wait) => self.retry(stored, ready, answered.answer, blame, wait).boxed(),
            Decision::DeadLetter(reason) => {
                let answer = answered.answer;
                self.give_up(stored, ready, reason, answer.status(), answer.to_string()).boxed()
            }
        })
    }

    /// The event waits for another attempt.
    async fn retry(&self, stored: &Message, ready: Ready, answer: Answer, blame: Blame, wait: Duration) -> Disposition {
        let (sequence, attempt) = (stored.sequence(), ready.place.attempt);
        tracing::debug!(sequence, attempt, ?blame, ?wait, %answer, "the event is retried");
        self.note_failure(sequence, stored, Ending::Failed, answer.status(), &answer.to_string());
        self.failed(stored, ready.into_known(), &answer, blame, wait).await
    }

    /// The event is handled: its reply is published, and only then it is to be acknowledged.
    async fn reply(&self, stored: &Message, ready: Ready, answered: Answered) -> Disposition {
        let published = tokio::select! {
            published = self.publish_reply(&ready.outgoing, answered.content, reply::GIVE_UP_TIMEOUT) => published,
            () = self.drain.begun_for(REPLY_GRACE) => return Disposition::GiveBack(Duration::ZERO),
        };
        match published {
            Ok(()) => {
                self.outcomes.handled(stored.sequence());
                Disposition::Over(Outcome::Acknowledged)
            }
            Err(topic_publisher::Error::Unavailable { topic, problem }) => {
                tracing::warn!(topic, problem, "a reply is not published: its event is delivered again later");
                self.untried(stored, ready, REDELIVERY_DELAY).await
            }
            Err(final_error) => {
                let reason = match final_error {
                    topic_publisher::Error::TooManyHops { .. } => Reason::TooManyHops,
                    _ => Reason::ReplyRefused,
                };
                let status = answered.answer.status();
                self.give_up(stored, ready, reason, status, final_error.to_string()).await
            }
        }
    }

    /// Publishes the reply in a response, if there is one and somebody wants it.
    ///
    /// # Errors
    /// It is not known to be stored.
    pub async fn publish_reply(
        &self,
        outgoing: &Outgoing,
        content: Content,
        patience: Duration,
    ) -> Result<(), topic_publisher::Error> {
        match (&self.options.reply, outgoing) {
            (Some(publisher), Outgoing::Event(event)) => reply::publish(publisher, event, content, patience).await,
            // Where replies are wanted, every event is taken apart.
            _ => Ok(()),
        }
    }
}
