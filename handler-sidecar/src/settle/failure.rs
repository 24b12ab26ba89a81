//! What becomes of an event that is not handled at once: its attempts are put on record, and what will never succeed
//! is kept aside. None of it happens to most events, so its futures are boxed where they are called: an event in
//! flight takes the memory of the ordinary way only.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use tidegate_broker_client::{identity, message_id, stored};
use tidegate_delivery_core::{Disposition, Settled};
use tokio::time::timeout;

use crate::broker::message::Message;
use crate::consume::process::{Context, LATER, Ready};
use crate::settle::attempts::store::Known;
use crate::settle::attempts::{Change, Failed, Next};
use crate::settle::dead_letter::{self, Letter};
use crate::settle::outcome::{self, Answer, Reason};
use crate::settle::outcome_log::Ending;
use crate::settle::outlet::{self, letter};

/// How long a topic for dead letters is tried, so that there is time left to keep the letter otherwise.
const LETTER_PATIENCE: Duration = Duration::from_secs(20);

impl Context {
    /// The attempts before this delivery; a break, if there is to be no other.
    pub(crate) async fn attempts_so_far(&self, stored: &Message) -> ControlFlow<Disposition, Known> {
        let deliveries = stored.deliveries();
        let known = self.attempts.read(stored.sequence(), deliveries).await;
        let (record, retry) = (&known.record, &self.config.delivery.retry);
        if let Some(letter) = Letter::decided_before(record, retry) {
            return Break(self.keep_aside(stored, &letter).await);
        }
        let untraced = record.untraced(deliveries);
        if outcome::never_finishes(untraced, retry) {
            let error = format!("nobody lived to say how {untraced} of {deliveries} deliveries ended");
            let letter = Letter { reason: Reason::NeverFinished, status: None, error, record: record.clone() };
            return Break(self.keep_aside(stored, &letter).await);
        }
        match known.record.wait(jiff::Timestamp::now().as_millisecond()) {
            Some(wait) => {
                self.record(stored, known, &Change::Untried).await;
                Break(Disposition::GiveBack(wait))
            }
            None => Continue(known),
        }
    }

    /// Puts a failed attempt on record, after which the event is to wait for so long.
    pub(crate) async fn failed(&self, stored: &Message, known: Known, answer: &Answer, wait: Duration) {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let next = Next::NotBefore(jiff::Timestamp::now().as_millisecond().saturating_add(wait));
        let change = Change::Failed(failed(answer.status(), &answer.to_string()), next);
        self.record(stored, known, &change).await;
    }

    /// There is no further attempt: dead-letters.
    pub(crate) async fn give_up(
        &self,
        stored: &Message,
        ready: Ready,
        reason: Reason,
        status: Option<u16>,
        error: String,
    ) -> Disposition {
        let ending = if reason == Reason::AttemptsUsedUp { Ending::Failed } else { Ending::Refused };
        self.note_failure(stored.sequence(), stored, ending, status, &error);
        // On record first: if the letter cannot be stored, or nobody lives to store it, the event comes again and
        // is not tried again.
        let change = Change::Failed(failed(status, &error), Next::GivenUp(reason));
        let record = self.record(stored, ready.known, &change).await.record;
        self.keep_aside(stored, &Letter { reason, status, error, record }).await
    }

    /// Notes that a delivery of the event failed, under this number.
    pub(crate) fn note_failure(
        &self,
        number: u64,
        message: &Message,
        ending: Ending,
        status: Option<u16>,
        error: &str,
    ) {
        let (id, event_type) = named(message);
        self.outcomes.failed(number, (&id, &event_type), ending, status, error);
    }

    /// The event was not tried in a while.
    pub(crate) async fn untried(&self, stored: &Message, ready: Ready, wait: Duration) -> Disposition {
        // At the end of a sidecar there is no time for it, nor is it needed: that does not happen again and again.
        if !wait.is_zero() {
            self.record(stored, ready.known, &Change::Untried).await;
        }
        Disposition::GiveBack(wait)
    }

    /// Without its record an event goes on all the same: it is then tried more often than it should be.
    pub(crate) async fn record(&self, stored: &Message, mut known: Known, change: &Change) -> Known {
        let sequence = stored.sequence();
        if let Err(error) = self.attempts.write(sequence, stored.deliveries(), &mut known, change).await {
            tracing::warn!(sequence, %error, "an attempt is not on record: the event may be tried once too often");
        }
        known
    }

    pub(crate) async fn invalid(&self, stored: &Message, error: String) -> Disposition {
        self.keep_aside(stored, &Letter { reason: Reason::Invalid, status: None, error, record: Default::default() })
            .await
    }

    /// It may be for this handler or not: it is kept, so that it can be redriven when the filter is another.
    pub(crate) async fn dead_letter_unjudged(&self, stored: &Message) -> Disposition {
        let error = tidegate_filter::Failed::TooCostly.to_string();
        let record = Default::default();
        self.keep_aside(stored, &Letter { reason: Reason::FilterTooCostly, status: None, error, record }).await
    }

    /// Dead-letters: stored and confirmed, and only then to be acknowledged.
    pub(crate) async fn keep_aside(&self, stored: &Message, letter: &Letter) -> Disposition {
        let (sequence, reason) = (stored.sequence(), letter.reason.name());
        let problem = match timeout(LATER, self.send_aside(stored, letter)).await {
            Ok(Ok(())) => {
                let (id, event_type) = named(stored);
                tracing::warn!(sequence, id, event_type, reason, error = letter.error, "an event is dead-lettered");
                if matches!(letter.reason, Reason::Invalid | Reason::NeverFinished | Reason::FilterTooCostly) {
                    self.outcomes.undeliverable(&id, &event_type, &letter.error);
                }
                self.outcomes.dead_lettered();
                return Disposition::Over(Settled::DeadLettered);
            }
            Ok(Err(error)) => error,
            Err(_) => "it is not confirmed".to_owned(),
        };
        tracing::error!(sequence, reason, problem, "a dead letter is not stored: its event is tried again later");
        Disposition::GiveBack(LATER)
    }

    /// To the topic for dead letters, if there is one and takes it; else beside the event's own topic.
    async fn send_aside(&self, stored: &Message, letter: &Letter) -> Result<(), String> {
        if let Some(outlet) = &self.options.letters
            && let Some(event) = letter::compose(&self.config.handler, stored, letter)
        {
            let name = message_id::dead_letter_name(stored.sequence());
            let published = match outlet.passed_on(event.clone(), &event) {
                Ok(event) => outlet.publish(&event, &name, LETTER_PATIENCE).await,
                Err(error) => Err(error),
            };
            match published {
                Err(error @ (outlet::Error::Refused { .. } | outlet::Error::TooManyHops { .. })) => {
                    tracing::warn!(%error, "a dead letter is kept beside its own topic instead");
                }
                published => return published.map_err(|error| error.to_string()),
            }
        }
        let id = self.dead_letter_id(stored.sequence()).map_err(|error| error.to_string())?;
        let stored = dead_letter::store(&self.client, &self.config.handler, stored, letter, &id).await;
        stored.map_err(|error| error.to_string())
    }

    /// By the handler's UID, because a handler that is made again under its name has letters of its own.
    fn dead_letter_id(&self, sequence: u64) -> Result<String, identity::Unreadable> {
        let identity = identity::folder(&self.config.identity)()?;
        Ok(message_id::of_dead_letter(&identity.user_seed, &self.config.handler_uid, sequence))
    }
}

/// Id and type of what is stored, also if it is no valid event; empty where there is none.
fn named(stored: &Message) -> (String, String) {
    if let Ok(event) = stored::decode(stored.stored(), stored.payload()) {
        return (event.id().to_owned(), event.event_type().to_owned());
    }
    let header = |name| stored.headers().and_then(|headers| headers.get(name)).map(str::to_owned);
    (header("ce-id").unwrap_or_default(), header("ce-type").unwrap_or_default())
}

/// An attempt that failed just now.
fn failed(status: Option<u16>, error: &str) -> Failed {
    Failed::new(jiff::Timestamp::now().to_string(), status, error)
}
