//! Whether an event is for this handler, as far as the broker could not see to it: sources, and an expression.
//!
//! An expression that has no value for an event (a field that is not there, types that do not fit) does not match:
//! as in CESQL, an error is false. That it failed is counted apart, for the author of the expression. Of an event for
//! which the evaluation is too much work, it is not known whether it matches: it is neither passed on nor passed over.
//!
//! The process has one thread, which also answers the probes. So only what is done in about a millisecond is done
//! there; other evaluations go to another thread, one at a time.

use std::collections::HashSet;
use std::sync::Arc;

use tidegate_broker_client::contract;
use tidegate_cloudevents::{Attributes as _, Event, EventInPlace};
use tidegate_filter::{BUDGET, Expression, Failed, Refused};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// The work that is done at once, about a millisecond.
const WORK_AT_ONCE: u64 = 1_000_000;
/// The data of a larger event is not even read at once, in bytes.
const SIZE_AT_ONCE: usize = 64 << 10;

/// A handler's filter, but for the types.
#[derive(Debug)]
pub struct Filter {
    sources: HashSet<String>,
    expression: Option<Arc<Expression>>,
    /// Whose turn it is on the other thread.
    turn: Arc<Semaphore>,
}

/// What a filter says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterResult {
    /// It is for this handler.
    Passes,
    /// It is not.
    Excluded,
    /// It is not, because the expression has no value for it.
    Failed(Failed),
    /// To find out is too much work.
    TooCostly,
}

impl From<Result<bool, Failed>> for FilterResult {
    fn from(matches: Result<bool, Failed>) -> Self {
        match matches {
            Ok(true) => Self::Passes,
            Ok(false) => Self::Excluded,
            Err(Failed::TooCostly) => Self::TooCostly,
            Err(failed) => Self::Failed(failed),
        }
    }
}

impl Filter {
    /// Of the configuration.
    ///
    /// # Errors
    /// The expression is refused. (The operator checks it at apply, by the same rules.)
    pub fn new(filter: &contract::Filter) -> Result<Self, Refused> {
        let expression = filter.expression.as_deref().map(Expression::compile).transpose()?.map(Arc::new);
        let sources = filter.sources.iter().cloned().collect();
        Ok(Self { sources, expression, turn: Arc::new(Semaphore::new(1)) })
    }

    /// Whether [`Self::judge_in_place`] can judge.
    pub fn judges_in_place(&self) -> bool {
        self.expression.as_ref().is_none_or(|expression| expression.reads_named_attributes())
    }

    /// Judges an event that is not taken apart; `None`: it has to be, or that is too much work to be done at once.
    pub fn judge_in_place(&self, event: &EventInPlace<'_>) -> Option<FilterResult> {
        if self.excludes(event.source()) {
            return Some(FilterResult::Excluded);
        }
        let Some(expression) = &self.expression else { return Some(FilterResult::Passes) };
        let judged = FilterResult::from(expression.matches_in_place(event, WORK_AT_ONCE)?);
        Some(judged).filter(|judged| *judged != FilterResult::TooCostly)
    }

    fn excludes(&self, source: &str) -> bool {
        !self.sources.is_empty() && !self.sources.contains(source)
    }

    /// Judges an event, as it was published.
    pub async fn evaluate(&self, event: &Event) -> FilterResult {
        if self.excludes(event.source()) {
            return FilterResult::Excluded;
        }
        let Some(expression) = &self.expression else { return FilterResult::Passes };
        if event.size() <= SIZE_AT_ONCE {
            let judged = FilterResult::from(expression.matches(event, WORK_AT_ONCE));
            if judged != FilterResult::TooCostly {
                return judged;
            }
        }
        Box::pin(self.judge_elsewhere(expression.clone(), event.clone())).await
    }

    async fn judge_elsewhere(&self, expression: Arc<Expression>, event: Event) -> FilterResult {
        let turn = self.turn.clone().acquire_owned().await;
        let evaluation = spawn_blocking(move || {
            // Kept until it is over, even if its result is not needed any more.
            let _turn = turn;
            FilterResult::from(expression.matches(&event, BUDGET))
        });
        evaluation.await.unwrap_or_else(|error| FilterResult::Failed(Failed::Error(error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_cloudevents::EventHeader;

    use super::*;

    async fn judged(sources: &[&str], expression: Option<&str>, source: &str) -> FilterResult {
        let filter = contract::Filter {
            types: vec!["ignored.here".into()],
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
            expression: expression.map(str::to_owned),
        };
        let event = Event::builder("1", source, "t").attribute("datacontenttype", "application/json");
        let filter = Filter::new(&filter).unwrap();
        let judged = filter.evaluate(&event.data(r#"{"amount":5}"#).build().unwrap()).await;
        let attributes = [("specversion", "1.0"), ("id", "1"), ("source", source), ("type", "t")];
        let headers = attributes.map(|(name, value)| EventHeader::Attribute(name, value)).into_iter();
        let in_place = EventInPlace::new(headers.chain([EventHeader::ContentType("application/json")])).unwrap();
        let judged_in_place = filter.judge_in_place(&in_place);
        assert!(filter.judges_in_place() <= judged_in_place.is_some());
        assert!(judged_in_place.is_none_or(|in_place| in_place == judged), "{expression:?}");
        judged
    }

    #[tokio::test]
    async fn all_that_is_given_must_hold() {
        for (sources, expression, source, expected) in [
            (&[][..], None, "/a", FilterResult::Passes),
            (&["/a", "/b"], None, "/b", FilterResult::Passes),
            (&["/a", "/b"], None, "/c", FilterResult::Excluded),
            (&["/a"], None, "/a/", FilterResult::Excluded),
            (&["/a"], Some("data.amount > 1"), "/a", FilterResult::Passes),
            (&["/a"], Some("data.amount > 1"), "/b", FilterResult::Excluded),
            (&[], Some("data.amount > 9"), "/a", FilterResult::Excluded),
            (&["/b"], Some("data.nothing > 9"), "/a", FilterResult::Excluded),
            (&["/a"], Some("event.type == 't' && event.source.startsWith('/')"), "/a", FilterResult::Passes),
            (&[], Some("event.datacontenttype == 'application/json'"), "/a", FilterResult::Passes),
            (&[], Some("has(event.subject)"), "/a", FilterResult::Excluded),
            (&[], Some("size(event) == 5 && 'id' in event"), "/a", FilterResult::Passes),
        ] {
            assert_eq!(judged(sources, expression, source).await, expected, "{sources:?} {expression:?} {source}");
        }
        assert!(matches!(judged(&[], Some("data.nothing > 9"), "/a").await, FilterResult::Failed(_)));
        assert!(matches!(judged(&[], Some("event.subject == 'x'"), "/a").await, FilterResult::Failed(_)));
    }

    /// What is too much for one thread is done by the other, and what is too much for both is known to be.
    #[tokio::test]
    async fn work_has_two_bounds() {
        for (tags, text, expected) in [(100, 100, false), (1000, 10_000, false), (100_000, 1_000_000, true)] {
            let data = format!(r#"{{"tags":[{}"x"],"text":"{}"}}"#, r#""no","#.repeat(tags), "y".repeat(text));
            let event = Event::builder("1", "/a", "t").attribute("datacontenttype", "application/json");
            let expression = Some("data.tags.exists(t, data.text.contains(t))".to_owned());
            let filter = Filter::new(&contract::Filter { expression, ..contract::Filter::default() }).unwrap();
            let judged = filter.evaluate(&event.data(data).build().unwrap()).await;
            assert_eq!(judged == FilterResult::TooCostly, expected, "{tags} {text}: {judged:?}");
        }
    }
}
