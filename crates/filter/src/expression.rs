//! An expression that compiles, and its value for an event.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cel::common::ast::IdedExpr;
use cel::common::types::{CelMap, CelMapKey, CelString};
use cel::common::value::Val;
use cel::{Context, Env, ExecutionError, Program, Value};
use tidegate_cloudevents::{Attributes, Event};

use crate::check::{self, Refused};
use crate::data::Unreadable;
use crate::reads::AttributeNames;
use crate::{cost, data};

/// The work that an evaluation may be, in units of about a nanosecond: less than a second, as a rule.
pub const BUDGET: u64 = 1_000_000_000;
/// Longest text of a failure, in bytes: it may quote the event.
const MAX_PROBLEM: usize = 256;

/// A compiled expression.
pub struct Expression {
    program: Program,
    /// The same with charges for its work.
    priced: IdedExpr,
    env: Arc<Env>,
    names: AttributeNames,
    reads_data: bool,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expression").field(&self.program.source_info().source).finish()
    }
}

/// Why an expression has no value for an event. The event does not match then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The evaluation ended in an error: a field that is not there, types that do not fit.
    #[error("{0}")]
    Error(String),
    /// The value is neither true nor false.
    #[error("the value is of type {0}, not bool")]
    NotBool(String),
    /// The data is not the JSON that its content type promises.
    #[error("data: {0}")]
    Data(String),
    /// The work was more than the budget, or the data has too many values to be kept. Whether the event matches is not
    /// known.
    #[error("the evaluation was ended, because it is too much work for this event")]
    TooCostly,
}

impl Expression {
    /// Compiles and checks.
    ///
    /// # Errors
    /// It can never be true for any event; the message says where and why.
    pub fn compile(text: &str) -> Result<Self, Refused> {
        let env = check::environment()?;
        let program = check::compile(&env, text)?;
        let reads_data = program.references().has_variable(check::DATA);
        let names = AttributeNames::of(program.expression());
        let priced = cost::priced(program.expression().clone());
        Ok(Self { program, priced, env: Arc::new(env), names, reads_data })
    }

    /// Whether nothing but attributes decides, and they are named: so that [`Self::matches_in_place`] has a result.
    pub fn reads_named_attributes(&self) -> bool {
        !self.reads_data && matches!(self.names, AttributeNames::Named(_))
    }

    /// As [`Self::matches`], of an event that is not taken apart; `None`: it has to be.
    pub fn matches_in_place(&self, event: &impl Attributes, budget: u64) -> Option<Result<bool, Failed>> {
        match &self.names {
            AttributeNames::Named(names) if !self.reads_data => {
                let mut context = Context::with_env(self.env.clone());
                context.add_variable_as_val(check::EVENT, Box::new(named(names, event)));
                Some(self.value(&context, budget))
            }
            _ => None,
        }
    }

    /// Whether it is true for this event, found with at most `budget` units of work ([`BUDGET`]).
    ///
    /// # Errors
    /// It is neither true nor false for it, or that is too much work to find out.
    pub fn matches(&self, event: &Event, budget: u64) -> Result<bool, Failed> {
        let mut context = Context::with_env(self.env.clone());
        let attributes = match &self.names {
            AttributeNames::Named(names) => named(names, event),
            AttributeNames::All => all(event),
        };
        context.add_variable_as_val(check::EVENT, Box::new(attributes));
        if self.reads_data {
            let data = data::of(event).map_err(|unreadable| match unreadable {
                Unreadable::Invalid(error) => Failed::Data(shortened(error.to_string())),
                Unreadable::TooLarge => Failed::TooCostly,
            })?;
            context.add_variable_from_value(check::DATA, data);
        }
        self.value(&context, budget)
    }

    fn value(&self, context: &Context<'_, '_>, budget: u64) -> Result<bool, Failed> {
        match cost::within(budget, || Value::resolve(&self.priced, context)) {
            // A part that was too much work may not matter.
            (Ok(Value::Bool(matches)), _) => Ok(matches),
            (_, false) => Err(Failed::TooCostly),
            (Ok(other), true) => Err(Failed::NotBool(other.type_of().to_string())),
            (Err(error), true) => Err(Failed::Error(describe(&error))),
        }
    }
}

/// The attributes of these names that the event has, in place.
fn named<'a>(names: &'a BTreeSet<String>, event: &'a impl Attributes) -> CelMap<'a> {
    map(names.iter().filter_map(|name| Some((name.as_str(), event.attribute(name)?))))
}

fn all(event: &Event) -> CelMap<'_> {
    let content_type = event.data_content_type().map(|value| ("datacontenttype", value));
    map(event.attributes().chain(content_type))
}

fn map<'a>(attributes: impl Iterator<Item = (&'a str, &'a str)>) -> CelMap<'a> {
    let entry = |(name, value): (&'a str, &'a str)| -> (CelMapKey<'a>, Box<dyn Val + 'a>) {
        (name.into(), Box::new(CelString::from(value)))
    };
    attributes.map(entry).collect::<HashMap<_, _>>().into()
}

/// Some errors print the values they are about, which may be all of the data: their kinds suffice.
fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => shortened(format!("no such field: {key}")),
        ExecutionError::NoSuchOverload(error) => shortened(error.to_string()),
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("{} and {} cannot be compared", left.type_of(), right.type_of())
        }
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("{} {operator} {} is not defined", left.type_of(), right.type_of())
        }
        ExecutionError::UnsupportedIndex(index, value) => {
            format!("{} cannot be indexed by {}", value.type_of(), index.type_of())
        }
        ExecutionError::NotSupportedAsMethod { method, target } => {
            format!("{method}() is not defined for {}", target.type_of())
        }
        ExecutionError::UnsupportedTargetType { target } => format!("not defined for {}", target.type_of()),
        ExecutionError::FunctionError { function, message } => shortened(format!("{function}: {message}")),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("{operator} overflows"),
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        ExecutionError::UnexpectedType { got, want } => shortened(format!("{got} where {want} is wanted")),
        ExecutionError::InvalidArgumentCount { expected, actual } => {
            format!("{actual} arguments where {expected} are wanted")
        }
        _ => "it cannot be evaluated".to_owned(),
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_PROBLEM));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::builder("1", "/shop/1", "com.shop.order.created")
            .attribute("subject", "o-7")
            .attribute("priority", "high")
            .attribute("datacontenttype", "application/json")
            .data(r#"{"amount": 120, "price": 1.5, "lines": [{"sku": "a"}, {"sku": "b"}], "who": null, "big": 18446744073709551615}"#)
            .build()
            .unwrap()
    }

    fn value(text: &str, event: &Event) -> Result<bool, Failed> {
        Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}")).matches(event, BUDGET)
    }

    #[test]
    fn over_attributes_and_data() {
        let event = event();
        for (text, expected) in [
            ("data.amount > 100", true),
            ("data.amount + 1 == 121", true),
            ("data.price * 2.0 == 3.0", true),
            ("data.amount > 120.5", false),
            ("data.big > 1", true),
            ("data.who == null", true),
            ("event.type == 'com.shop.order.created'", true),
            ("event.type.startsWith('com.shop.') && event.source.endsWith('/1')", true),
            ("event.source.matches('^/shop/[0-9]+$')", true),
            ("event.priority in ['high', 'urgent']", true),
            ("has(event.subject) && event.subject == 'o-7'", true),
            ("has(event.time)", false),
            ("has(data.missing) && data.missing > 1", false),
            ("data.lines.exists(line, line.sku == 'b')", true),
            ("data.lines.all(line, line.sku == 'b')", false),
            ("size(data.lines) == 2 && event.datacontenttype.contains('json')", true),
            ("event.specversion == '1.0'", true),
            ("type(data.amount) == int", true),
            ("true", true),
        ] {
            assert_eq!(value(text, &event), Ok(expected), "{text}");
        }
    }

    #[test]
    fn data_is_what_its_type_says() {
        let with = |content_type: &str, data: &'static [u8]| {
            let event = Event::builder("1", "/s", "t").attribute("datacontenttype", content_type).data(data);
            event.build().unwrap()
        };
        assert_eq!(value("data == 'hello'", &with("text/plain", b"hello")), Ok(true));
        assert_eq!(value("data == b'\\x00\\x01'", &with("application/octet-stream", b"\x00\x01")), Ok(true));
        assert_eq!(value("size(data) == 1", &with("text/plain", b"\xff")), Ok(true), "bytes, where it is no UTF-8");
        assert_eq!(value("data == 7", &with("application/vnd.x+json", b"7")), Ok(true));
        assert_eq!(value("data == null", &Event::builder("1", "/s", "t").build().unwrap()), Ok(true));
        assert!(matches!(value("data.a == 7", &with("application/json", b"{\"a\":")), Err(Failed::Data(_))));
        assert_eq!(value("event.id == '1'", &with("application/json", b"{\"a\":")), Ok(true), "data is not looked at");
    }

    #[test]
    fn failures_are_short_and_quote_little() {
        let event = event();
        for (text, expected) in [
            ("data.missing > 1", "no such field: missing"),
            ("event.nosuch == 'x'", "no such field: nosuch"),
            ("data.amount", "the value is of type int, not bool"),
            ("data.amount / 0 == 1", "division by zero"),
            ("data.lines[7] == null", "index out of bounds"),
        ] {
            assert_eq!(value(text, &event).unwrap_err().to_string(), expected, "{text}");
        }
        for text in ["data.lines > 1", "data.who.x == 1", "data + 1 == 2", "data.amount.matches('x')"] {
            let problem = value(text, &event).unwrap_err().to_string();
            assert!(problem.len() <= MAX_PROBLEM && !problem.contains("sku"), "{text}: {problem}");
        }
    }

    #[test]
    fn one_side_of_an_or_may_fail() {
        assert_eq!(value("data.missing > 1 || data.amount > 100", &event()), Ok(true));
    }

    #[test]
    fn it_can_be_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Expression>();
    }

    fn of_size(tags: usize, text: usize) -> Event {
        let tags = r#""no","#.repeat(tags);
        let data = format!(r#"{{"tags":[{tags}"x"],"map":{{"k":1}},"text":"{}"}}"#, "y".repeat(text));
        let event = Event::builder("1", "/s", "t").attribute("datacontenttype", "application/json");
        event.data(data).build().unwrap()
    }

    /// Whatever reads or copies a large part of the event at each step of a loop.
    #[test]
    fn too_much_work_is_ended() {
        let event = of_size(20_000, 500_000);
        for text in [
            "data.tags.exists(t, data.text.contains(t))",
            "data.tags.exists(t, !data.text.endsWith(data.text))",
            "data.tags.map(t, data.text).size() > 1",
            "data.tags.map(t, [data.text]).size() > 1",
            "data.tags.map(t, {'a': data.text}).size() > 1",
            "data.tags.exists(t, data.text + t == 'x')",
            "data.tags.exists(t, t + data.text == 'x')",
            "data.tags.exists(t, data.text == data.text + 'x')",
            "data.tags.exists(t, data.text < data.text)",
            "data.tags.exists(t, data.tags != data.tags)",
            "data.tags.exists(t, 'x1' in data.tags)",
            "data.tags.exists(t, size(data.text) == 1)",
            "data.tags.exists(t, data.text.size() == 1)",
            "data.tags.exists(t, data.map[data.text] == 1)",
            "data.tags.exists(t, size(string(data.text)) == 1)",
            "data.tags.exists(t, size(bytes(data.text)) == 1)",
            "data.tags.exists(t, data.text.matches('a'))",
            "data.tags.exists_one(t, data.text.contains('x'))",
            "data.tags.filter(t, data.text.contains('x')).size() == 1",
            "data.tags.exists(t, data.text.contains(t)) || data.missing",
            "!(data.tags.exists(t, data.text.contains(t)) && true)",
        ] {
            let begun = std::time::Instant::now();
            assert_eq!(value(text, &event), Err(Failed::TooCostly), "{text}");
            assert!(begun.elapsed().as_secs() < 20, "{text}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn work_that_is_proportional_to_the_event_is_done() {
        let event = of_size(20_000, 500_000);
        for (text, expected) in [
            ("data.tags.exists(t, t == 'x')", true),
            ("data.tags.exists(t, t == 'z')", false),
            ("data.tags.filter(t, t == 'no').map(t, t + 'x').all(t, t == 'nox')", true),
            ("data.tags.exists(t, t in ['a', 'x', 'b'])", true),
            ("data.tags.exists(t, t in data.map)", false),
            ("data.tags.all(t, size(data.tags) == 20001)", true),
            ("data.tags.exists(t, t.matches('^x+$'))", true),
            ("data.tags.exists_one(t, t == 'x')", true),
            ("data.text.contains('yyy') && data.text.matches('^y+$') && data.text == data.text", true),
            // What is too much work may not matter.
            ("data.tags.exists(t, data.text.contains(t)) || data.map.k == 1", true),
            ("data.tags.exists(t, data.text.contains(t)) && data.map.k == 2", false),
        ] {
            assert_eq!(value(text, &event), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_regular_expression_has_a_largest_size() {
        let event = of_size(1, 10_000);
        for text in ["data.text.matches('(y{100}){100}')", "data.text.matches(data.text)"] {
            let failed = value(text, &event);
            assert!(matches!(&failed, Err(Failed::Error(why)) if why.contains("too large")), "{text}: {failed:?}");
        }
        assert!(matches!(value("data.text.matches('(y')", &event), Err(Failed::Error(_))));
    }
}
