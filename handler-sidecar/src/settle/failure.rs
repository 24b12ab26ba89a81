//! What becomes of an event that is not handled at once: its attempts are put on record, it waits for the next one, and
//! what will never succeed is dead-lettered. None of it happens to most events, so its futures are boxed where they are
//! called: an event in flight takes the memory of the ordinary way only.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, SystemTime};

use tidegate_broker_client::contract::{Expiry, OnExhausted, OnExpired, Order};
use tidegate_broker_client::{identity, message_id, stored};
use tidegate_delivery_core::{Disposition, Outcome};
use tokio::time::timeout;

use crate::broker::message::Message;
use crate::consume::process::{Context, REDELIVERY_DELAY, Ready};
use crate::deliver::breaker::Blame;
use crate::settle::attempts::store::AttemptHistory;
use crate::settle::attempts::{Change, Failed, Next, Record, Wait};
use crate::settle::backoff::Backoff;
use crate::settle::dead_letter::{self, DeadLetter};
use crate::settle::expiry;
use crate::settle::outcome::{self, Answer, Reason};
use crate::settle::outcome_log::Ending;
use crate::settle::shelf::{Put, SHELVED_AFTER};
use crate::settle::topic_publisher::{self, letter};

/// How long a topic for dead letters is tried. Its event takes a place at the handler meanwhile, which it does not
/// where it waits for the next try.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(5);
/// When a dead letter that is not stored is tried again, by how often the shelf delivered its event.
const LETTER_PAUSES: Backoff =
    Backoff { initial: Duration::from_secs(5), max: Duration::from_secs(300), factor: 2.0, jitter: 0.2 };
/// What is on the shelf and was not put there by a sidecar is looked at again after this.
const FOREIGN_PAUSE: Duration = Duration::from_secs(3600);

/// The moment, in milliseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Context {
    /// The attempts before this delivery; a break, if there is to be no other now.
    pub(crate) async fn attempts_so_far(&self, stored: &Message) -> ControlFlow<Disposition, AttemptHistory> {
        let deliveries = stored.deliveries();
        let mut known = self.attempts.read(stored.name(), deliveries).await;
        if let Some(copy) = stored.copy() {
            known = known.or_newer(&copy.record);
        }
        stored.follows(known.record.deliveries());
        let deliveries = stored.deliveries();
        let (record, retry) = (&known.record, &self.config.delivery.retry);
        if let Some(letter) = DeadLetter::decided_before(record, retry) {
            return Break(self.settle_exhausted(stored, known, letter).await);
        }
        let untraced = record.untraced(deliveries);
        if outcome::never_finishes(untraced, retry) {
            let error = format!("{untraced} of {deliveries} deliveries ended without a record of how");
            let letter = DeadLetter { reason: Reason::NeverFinished, status: None, error, record: record.clone() };
            return Break(self.settle_exhausted(stored, known, letter).await);
        }
        let wait = known.record.wait(now());
        self.note(stored, &known.record, None);
        // It was to go to the shelf, and may be there: no one lived to acknowledge it, or there was no room.
        if known.record.asked_wait().is_some_and(|asked| self.shelves(stored, asked))
            && self.shelve(stored, &known.record).await
        {
            return Break(Disposition::Over(Outcome::Retried));
        }
        match wait {
            Some(Wait { left, is_clock_behind }) => {
                let change = if is_clock_behind { Change::PutOff } else { Change::Untried };
                self.record(stored, known, &change).await;
                Break(Disposition::GiveBack(left))
            }
            None if stored.leaves_no_trace() => Continue(self.record(stored, known, &Change::Begun).await),
            None => Continue(known),
        }
    }

    /// What the shelf delivers for the first time was put there a moment ago, as a rule: its copy says how long it
    /// waits, and nothing else has to be read or written.
    pub(crate) fn just_put_there(&self, stored: &Message) -> ControlFlow<Disposition> {
        let Some(copy) = stored.copy() else {
            tracing::error!(number = stored.number(), "no sidecar put this on the retry shelf: it stays there");
            return Break(Disposition::GiveBack(FOREIGN_PAUSE));
        };
        // What is parked is read whenever it is due: for the first time always, as far as it knows.
        let is_first = stored.shelf_deliveries() == 1 && !stored.is_parked();
        match copy.record.wait(now()).filter(|_| is_first) {
            Some(wait) => Break(Disposition::GiveBack(wait.left)),
            None => Continue(()),
        }
    }

    /// Puts a failed attempt on record, after which the event waits for so long.
    pub(crate) async fn failed(
        &self,
        stored: &Message,
        known: AttemptHistory,
        answer: &Answer,
        blame: Blame,
        wait: Duration,
    ) -> Disposition {
        let not_before = now().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let failed = failed(answer.status(), &answer.to_string());
        let failed = if blame == Blame::Event { failed } else { failed.in_outage() };
        let change = Change::Failed(failed, Next::NotBefore(not_before, wait));
        let known = self.record(stored, known, &change).await;
        self.note(stored, &known.record, None);
        if self.shelves(stored, wait) && self.shelve(stored, &known.record).await {
            return Disposition::Over(Outcome::Retried);
        }
        Disposition::RetryIn(wait)
    }

    /// Notes what is on record of an event, for its copy on the shelf: where events have an order, the discipline says
    /// what is copied.
    fn note(&self, stored: &Message, record: &Record, held_for: Option<Reason>) {
        if !self.has_shelf() {
            stored.note(record, held_for);
        }
    }

    /// Whether an event that waits for so long goes to the shelf. One that comes of it stays there; where events have
    /// an order, it is another matter who waits.
    fn shelves(&self, stored: &Message, wait: Duration) -> bool {
        wait > SHELVED_AFTER && self.has_shelf() && !stored.is_of_the_shelf()
    }

    fn has_shelf(&self) -> bool {
        self.config.delivery.order == Order::None
    }

    /// Puts an event of the topic on the shelf. Whether it is there, so that it is to be acknowledged.
    async fn shelve(&self, stored: &Message, record: &Record) -> bool {
        // Deliveries of which there is no trace are not on record; there they would be forgotten.
        let record = record.with(&Change::Begun, &self.config.incarnation(), stored.deliveries());
        let put = self.shelf.put(stored, &record).await;
        self.metrics.shelved(put);
        put == Put::Stored
    }

    /// There is no further attempt: dead-letters, or holds the event's key.
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
        if self.holds(reason) {
            return self.hold(stored, ready.into_known(), reason, Some(failed(status, &error))).await;
        }
        // On record first: if the dead letter cannot be stored, or no one lives to store it, the event comes again and
        // is not tried again.
        let change = Change::Failed(failed(status, &error), Next::GivenUp(reason));
        let record = self.record(stored, ready.into_known(), &change).await.record;
        self.dead_letter(stored, &DeadLetter { reason, status, error, record }).await
    }

    /// It was decided before that there is no further attempt, or there are no traces of any.
    async fn settle_exhausted(&self, stored: &Message, known: AttemptHistory, letter: DeadLetter) -> Disposition {
        match self.holds(letter.reason) {
            true => self.hold(stored, known, letter.reason, None).await,
            false => self.dead_letter(stored, &letter).await,
        }
    }

    /// Whether an event of which no further attempt is made for this reason stays and holds up its key. What was handled
    /// or can never be attempted is a dead letter all the same.
    fn holds(&self, reason: Reason) -> bool {
        let is_exhausted = matches!(reason, Reason::AttemptsUsedUp | Reason::Refused | Reason::NeverFinished);
        is_exhausted && self.config.delivery.on_exhausted == OnExhausted::Park
    }

    /// The event's key waits for a person. Once it is released, the event begins as if it had never failed.
    async fn hold(
        &self,
        stored: &Message,
        known: AttemptHistory,
        reason: Reason,
        failed: Option<Failed>,
    ) -> Disposition {
        let known = self.record(stored, known, &Change::Restarted(failed)).await;
        self.note(stored, &known.record, Some(reason));
        Disposition::Detain
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
            self.record(stored, ready.into_known(), &Change::Untried).await;
        }
        Disposition::GiveBack(wait)
    }

    /// Without its record an event continues all the same: it is then tried more often than it should be.
    pub(crate) async fn record(&self, stored: &Message, mut known: AttemptHistory, change: &Change) -> AttemptHistory {
        if let Err(error) = self.attempts.write(stored.name(), stored.deliveries(), &mut known, change).await {
            let sequence = stored.sequence();
            tracing::warn!(sequence, %error, "an attempt is not on record: the event may be tried once too often");
        }
        known
    }

    pub(crate) async fn invalid(&self, stored: &Message, error: String) -> Disposition {
        self.dead_letter(
            stored,
            &DeadLetter { reason: Reason::Invalid, status: None, error, record: Default::default() },
        )
        .await
    }

    /// It may be for this handler or not: it is kept, so that it can be redriven when the filter is another.
    pub(crate) async fn dead_letter_unjudged(&self, stored: &Message) -> Disposition {
        let error = tidegate_filter::Failed::TooCostly.to_string();
        let record = Default::default();
        self.dead_letter(stored, &DeadLetter { reason: Reason::FilterTooCostly, status: None, error, record }).await
    }

    /// The age of an event that is too old to be delivered; `None`: it is not.
    pub(crate) fn excess_age(&self, stored: &Message) -> Option<(Expiry, Duration)> {
        let expiry = self.config.delivery.expiry.filter(|_| stored.sequence() > 0)?;
        Some((expiry, expiry::excess_age(expiry, stored.published_at(), SystemTime::now())?))
    }

    /// The event is not delivered (any more).
    pub(crate) async fn expire(
        &self,
        stored: &Message,
        known: AttemptHistory,
        (expiry, age): (Expiry, Duration),
    ) -> Disposition {
        if expiry.on_expired == OnExpired::Skip {
            tracing::debug!(sequence = stored.sequence(), ?age, "an event is skipped because of its age");
            return Disposition::Over(Outcome::Expired);
        }
        let (status, error) = (known.record.last_status(), expiry::explain(expiry, age));
        let letter = DeadLetter { reason: Reason::TooOld, status, error, record: known.record.clone() };
        let disposition = self.dead_letter(stored, &letter).await;
        // Nothing else tells of this delivery: without a trace the event would pass for one at which sidecars die.
        if matches!(disposition, Disposition::GiveBack(_)) {
            self.record(stored, known, &Change::Untried).await;
        }
        disposition
    }

    /// Dead-letters: stored and confirmed, and only then to be acknowledged.
    pub(crate) async fn dead_letter(&self, stored: &Message, letter: &DeadLetter) -> Disposition {
        let (sequence, reason) = (stored.sequence(), letter.reason.name());
        let problem = match timeout(REDELIVERY_DELAY, self.send_aside(stored, letter)).await {
            Ok(Ok(())) => {
                let (id, event_type) = named(stored);
                tracing::warn!(sequence, id, event_type, reason, error = letter.error, "an event is dead-lettered");
                if matches!(letter.reason, Reason::Invalid | Reason::NeverFinished | Reason::FilterTooCostly) {
                    self.outcomes.undeliverable(&id, &event_type, &letter.error);
                }
                self.outcomes.dead_lettered();
                return Disposition::Over(Outcome::DeadLettered);
            }
            Ok(Err(error)) => error,
            Err(_) => "it is not confirmed".to_owned(),
        };
        tracing::error!(sequence, reason, problem, "a dead letter is not stored: it is tried again later");
        if stored.is_of_the_shelf() {
            Disposition::GiveBack(LETTER_PAUSES.wait(stored.shelf_deliveries(), fastrand::f64()))
        } else if self.has_shelf() && self.shelve(stored, &letter.record).await {
            Disposition::Over(Outcome::Retried)
        } else {
            Disposition::GiveBack(REDELIVERY_DELAY)
        }
    }

    /// To the topic for dead letters, if there is one and takes it; else beside the event's own topic.
    async fn send_aside(&self, stored: &Message, letter: &DeadLetter) -> Result<(), String> {
        if let Some(publisher) = &self.options.letters
            && let Some(event) = letter::compose(self.config.handler_name(), stored, letter)
        {
            let name = message_id::dead_letter_name(stored.sequence(), stored.published_at());
            let published = match publisher.passed_on(event.clone(), &event) {
                Ok(event) => publisher.publish(&event, &name, DEAD_LETTER_TIMEOUT).await,
                Err(error) => Err(error),
            };
            match published {
                Err(error @ (topic_publisher::Error::Refused { .. } | topic_publisher::Error::TooManyHops { .. })) => {
                    tracing::warn!(%error, "a dead letter is kept beside its own topic instead");
                }
                published => return published.map_err(|error| error.to_string()),
            }
        }
        let id = self.dead_letter_id(stored).map_err(|error| error.to_string())?;
        let stored = dead_letter::store(&self.client, &self.config.handler, stored, letter, &id).await;
        stored.map_err(|error| error.to_string())
    }

    /// By the handler's UID, because a handler that is made again under its name has letters of its own.
    fn dead_letter_id(&self, stored: &Message) -> Result<String, identity::Unreadable> {
        let identity = identity::folder(&self.config.identity)()?;
        Ok(message_id::of_dead_letter(
            &identity.user_seed,
            &self.config.incarnation(),
            stored.sequence(),
            stored.published_at(),
        ))
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
