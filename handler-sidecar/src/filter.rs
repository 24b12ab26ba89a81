//! Whether an event is for this handler, as far as the broker could not see to it: sources, and an expression.
//!
//! An expression that has no value for an event (a field that is not there, types that do not fit) does not match:
//! as in CESQL, an error is false. That it failed is counted apart, for who wrote the expression.

use std::collections::HashSet;

use tidegate_broker_client::contract;
use tidegate_cloudevents::Event;
use tidegate_filter::{Expression, Failed, Refused};

/// A handler's filter, but for the types.
#[derive(Debug, Default)]
pub struct Filter {
    sources: HashSet<String>,
    expression: Option<Expression>,
}

/// What a filter says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is for this handler.
    Passes,
    /// It is not.
    Excluded,
    /// It is not, because the expression has no value for it.
    Failed(Failed),
}

impl Filter {
    /// Of the configuration.
    ///
    /// # Errors
    /// The expression is refused. (The operator checks it at apply, by the same rules.)
    pub fn new(filter: &contract::Filter) -> Result<Self, Refused> {
        let expression = filter.expression.as_deref().map(Expression::compile).transpose()?;
        Ok(Self { sources: filter.sources.iter().cloned().collect(), expression })
    }

    /// Judges an event, as it was published.
    pub fn judge(&self, event: &Event) -> Judged {
        if !self.sources.is_empty() && !self.sources.contains(event.source()) {
            return Judged::Excluded;
        }
        match self.expression.as_ref().map(|expression| expression.matches(event)) {
            None | Some(Ok(true)) => Judged::Passes,
            Some(Ok(false)) => Judged::Excluded,
            Some(Err(failed)) => Judged::Failed(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(sources: &[&str], expression: Option<&str>, source: &str) -> Judged {
        let filter = contract::Filter {
            types: vec!["ignored.here".into()],
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
            expression: expression.map(str::to_owned),
        };
        let event = Event::builder("1", source, "t").attribute("datacontenttype", "application/json");
        Filter::new(&filter).unwrap().judge(&event.data(r#"{"amount":5}"#).build().unwrap())
    }

    #[test]
    fn all_that_is_given_must_hold() {
        for (sources, expression, source, expected) in [
            (&[][..], None, "/a", Judged::Passes),
            (&["/a", "/b"], None, "/b", Judged::Passes),
            (&["/a", "/b"], None, "/c", Judged::Excluded),
            (&["/a"], None, "/a/", Judged::Excluded),
            (&["/a"], Some("data.amount > 1"), "/a", Judged::Passes),
            (&["/a"], Some("data.amount > 1"), "/b", Judged::Excluded),
            (&[], Some("data.amount > 9"), "/a", Judged::Excluded),
            (&["/b"], Some("data.nothing > 9"), "/a", Judged::Excluded),
        ] {
            assert_eq!(judged(sources, expression, source), expected, "{sources:?} {expression:?} {source}");
        }
        assert!(matches!(judged(&[], Some("data.nothing > 9"), "/a"), Judged::Failed(_)));
    }
}
