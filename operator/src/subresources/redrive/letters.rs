//! The letters of a call, some at a time: their copies are published, the handler is looked at again, the letters are removed.
//!
//! Whoever changes the handler meanwhile may have its consumers pass over the copies. If it is what it was after they were
//! published, its consumers were, too: from then on they are events that wait for it, as all others do. If it is not, the
//! letters stay, and the next call publishes other copies of them for the handler as it is by then.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use tidegate_broker_admin::api::{ApiError, Missing};
use tidegate_broker_client::layout;
use tokio::time::{Instant, timeout_at};

use super::report::{Cause, Item, Report, Stay};
use crate::handler::redrive::{Confirmed, Copy, Handler as Letters, Pace, Published, Unfit};
use crate::subresources::answer::Refusal;
use crate::subresources::locate::{Handler, Locator};

/// Letters for which the handler is looked at once.
const BATCH: usize = 20;
/// Letters a second at most, as of `spec.redrive`.
const RATE: i32 = 100;
/// The longest that a letter waits for the broker, to be published and to be removed.
const LETTER_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest that a look at the handler takes.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a call may take.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// No letter is begun after this.
    pub(super) begin: Instant,
    /// Nothing is waited for after this.
    pub(super) end: Instant,
}

/// A call under way.
pub(super) struct Run<'a> {
    locator: &'a Locator,
    handler: &'a Handler,
    letters: Letters<'a>,
    stream: String,
    pace: Pace,
    times: Times,
    items: Vec<Item>,
    /// Whether the topic has a copy of some letter, whatever became of the letter.
    has_published: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(locator: &'a Locator, handler: &'a Handler, times: Times) -> Self {
        let meta = &handler.resource.metadata;
        let letters = Letters {
            name: &handler.known_as,
            uid: meta.uid.as_deref().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            types: handler.resource.spec.filter.as_ref().map(|filter| filter.types.as_slice()).unwrap_or_default(),
        };
        let stream = layout::dead_letter_stream(letters.name);
        Self {
            locator,
            handler,
            letters,
            stream,
            pace: Pace::new(RATE),
            times,
            items: Vec::new(),
            has_published: false,
        }
    }

    /// Redrives them as far as there is time, and says what became of each.
    ///
    /// # Errors
    /// The broker or the API server is away, and nothing was done.
    pub(super) async fn all(mut self, sequences: &[u64]) -> Result<Report, Refusal> {
        let mut stopped = None;
        for batch in sequences.chunks(BATCH) {
            if let Err(cause) = self.batch(batch).await {
                stopped = Some(cause);
                break;
            }
        }
        match stopped {
            Some(Cause::Away(refusal)) if self.items.is_empty() && !self.has_published => Err(refusal),
            stopped => Ok(Report::new(&self.handler.resource.name_any(), sequences, self.items, stopped)),
        }
    }

    async fn batch(&mut self, sequences: &[u64]) -> Result<(), Cause> {
        let mut confirmed = Vec::new();
        let published = self.publish(sequences, &mut confirmed).await;
        // Of what was published before something failed the letters go, too.
        self.remove(confirmed).await.and(published)
    }

    async fn publish(&mut self, sequences: &[u64], confirmed: &mut Vec<Confirmed>) -> Result<(), Cause> {
        for sequence in sequences {
            if Instant::now() >= self.times.begin {
                return Err(Cause::OutOfTime);
            }
            let end = self.times.end;
            match within(end, LETTER_TIMEOUT, "the broker", self.publish_one(*sequence)).await? {
                Ok(copy) => confirmed.push(copy),
                Err(item) => self.items.push(item),
            }
        }
        Ok(())
    }

    /// The copy, or why there is none.
    async fn publish_one(&mut self, sequence: u64) -> Result<Result<Confirmed, Item>, Refusal> {
        let broker = &self.handler.broker.api;
        let letter = match broker.message(&self.stream, sequence).await {
            Ok(letter) => letter,
            Err(ApiError::NotFound(Missing::Message)) => return Ok(Err(Item::gone(sequence))),
            Err(error) => return Err(error.into()),
        };
        let copy = match Copy::of(&self.letters, &letter) {
            Ok(copy) => copy,
            Err(Unfit::NoEvent) => return Ok(Err(Item::stays(sequence, Stay::NoEvent))),
            Err(Unfit::OtherType) => return Ok(Err(Item::stays(sequence, Stay::OtherType))),
        };
        self.pace.turn().await;
        Ok(match copy.publish(broker).await? {
            Published::Confirmed(confirmed) => {
                self.has_published = true;
                Ok(confirmed)
            }
            Published::Refused(why) => Err(Item::stays(sequence, Stay::Refused(why))),
        })
    }

    async fn remove(&mut self, confirmed: Vec<Confirmed>) -> Result<(), Cause> {
        if confirmed.is_empty() {
            return Ok(());
        }
        let before = &self.handler.resource;
        let look = self.locator.handler_meta(before);
        let now = within(self.times.end, LOOK_TIMEOUT, "the API server", look).await?;
        if let Some(change) = change(&before.metadata, now.as_ref()) {
            return Err(change);
        }
        for letter in confirmed {
            let (sequence, was_known) = (letter.sequence(), letter.was_known);
            let removed = async { Ok(letter.remove(&self.handler.broker.api, &self.stream).await?) };
            within(self.times.end, LETTER_TIMEOUT, "the broker", removed).await?;
            self.items.push(Item::redriven(sequence, was_known));
        }
        Ok(())
    }
}

/// What has become of a handler that was looked at; `None`: it is what it was.
fn change(before: &ObjectMeta, now: Option<&ObjectMeta>) -> Option<Cause> {
    match now {
        Some(now) if now.uid == before.uid && now.deletion_timestamp.is_none() => {
            (now.generation != before.generation).then_some(Cause::HandlerChanged)
        }
        _ => Some(Cause::HandlerDeleted),
    }
}

async fn within<T>(
    end: Instant,
    limit: Duration,
    who: &str,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Cause> {
    match timeout_at(end.min(Instant::now() + limit), work).await {
        Ok(done) => done.map_err(Cause::Away),
        Err(_) if Instant::now() >= end => Err(Cause::OutOfTime),
        Err(_) => Err(Cause::Away(Refusal::unavailable(format!(
            "{who} has not answered within {} s: dead letters are kept; try again",
            limit.as_secs()
        )))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const END: Duration = Duration::from_secs(6);

    #[test]
    fn a_handler_is_what_it_was_only_as_the_same_object_with_the_same_specification() {
        let meta = |changes: Value| -> ObjectMeta {
            let mut whole = json!({"name": "billing", "uid": "u", "generation": 3, "resourceVersion": "7"});
            whole.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            serde_json::from_value(whole).unwrap()
        };
        let before = meta(json!({}));
        for (now, reason) in [
            (Some(meta(json!({"resourceVersion": "8", "labels": {"a": "b"}}))), None),
            (Some(meta(json!({"generation": 4}))), Some("HandlerChanged")),
            (Some(meta(json!({"uid": "v"}))), Some("HandlerDeleted")),
            (Some(meta(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))), Some("HandlerDeleted")),
            (None, Some("HandlerDeleted")),
        ] {
            assert_eq!(change(&before, now.as_ref()).map(|cause| cause.reason()), reason, "{now:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_is_longer_than_its_limit_or_than_the_call() {
        let begun = Instant::now();
        let never = || std::future::pending::<Result<(), Refusal>>();
        let late = within(begun + END, LETTER_TIMEOUT, "the broker", never()).await.unwrap_err();
        assert_eq!((late.reason(), begun.elapsed()), ("Unavailable", LETTER_TIMEOUT));
        let late = within(begun + END, LETTER_TIMEOUT, "the broker", never()).await.unwrap_err();
        assert_eq!((late.reason(), begun.elapsed()), ("OutOfTime", END));
        assert!(within(begun, LETTER_TIMEOUT, "the broker", async { Ok(1) }).await.is_ok(), "what is there is taken");
    }
}
