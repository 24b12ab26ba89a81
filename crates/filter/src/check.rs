//! What compiles: CEL, in bounds, about nothing but `event` and `data`.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::{Env, Program};

use crate::cost;

/// Longest expression, in bytes.
pub const MAX_LENGTH: usize = 4096;
/// Deepest expression, in steps from its root.
pub const MAX_DEPTH: usize = 64;
/// Longest message: the handler's owner reads it in a condition.
const MAX_MESSAGE: usize = 500;

/// The attributes.
pub const EVENT: &str = "event";
/// The data.
pub const DATA: &str = "data";

/// What else an identifier may be: the name of a type.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
/// The functions there are. (Operators have names that are no identifiers; macros are gone after parsing.)
const FUNCTIONS: [&str; 13] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is longer than [`MAX_LENGTH`].
    #[error("the expression is {0} bytes long, and {MAX_LENGTH} are allowed: shorten it")]
    TooLong(usize),
    /// It is not CEL; these are the parser's words.
    #[error("{0}")]
    Syntax(String),
    /// It is deeper than [`MAX_DEPTH`].
    #[error("the expression is nested more than {MAX_DEPTH} deep: write it flatter")]
    TooDeep,
    /// A loop in a loop.
    #[error(
        "all(), exists(), exists_one(), map() and filter() must not be inside of one another: filter in the handler"
    )]
    LoopInLoop,
    /// A variable that is never there.
    #[error("unknown variable {0:?}: write event.<attribute>, or data")]
    Variable(String),
    /// A function that is not there.
    #[error("unknown function {0}(): there are {functions}", functions = FUNCTIONS.join(", "))]
    Function(String),
    /// A message literal.
    #[error("unknown type {0:?}: no types of messages can be written here")]
    Message(String),
}

/// The functions that there are.
pub fn environment() -> Result<Env, Refused> {
    let mut env = Env::stdlib();
    cost::declare(&mut env).map_err(|error| Refused::Syntax(error.to_string()))?;
    Ok(env)
}

/// Compiles and checks.
pub fn compile(env: &Env, text: &str) -> Result<Program, Refused> {
    if text.len() > MAX_LENGTH {
        return Err(Refused::TooLong(text.len()));
    }
    let program = env.compile(text).map_err(|errors| {
        let mut words = errors.to_string();
        words.truncate(words.floor_char_boundary(MAX_MESSAGE));
        Refused::Syntax(words)
    })?;
    Scope::default().expression(program.expression())?;
    Ok(program)
}

/// Where in the expression the check is.
#[derive(Clone, Copy, Default)]
struct Scope<'a> {
    depth: usize,
    /// The variables of the loop around, if there is one.
    looped: Option<[Option<&'a str>; 2]>,
}

impl<'a> Scope<'a> {
    fn expression(mut self, expression: &'a IdedExpr) -> Result<(), Refused> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Refused::TooDeep);
        }
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.expression(&select.operand),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.expression(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(entry)),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(message) => Err(Refused::Message(shortened(&message.type_name))),
        }
    }

    fn variable(self, name: &str) -> Result<(), Refused> {
        let of_loop = || self.looped.iter().flatten().flatten().any(|variable| *variable == name);
        // The parser's own, in what macros become, begin with @.
        let known = [EVENT, DATA].contains(&name) || TYPES.contains(&name) || name.starts_with('@') || of_loop();
        if known { Ok(()) } else { Err(Refused::Variable(shortened(name))) }
    }

    fn call(self, call: &'a CallExpr) -> Result<(), Refused> {
        let name = call.func_name.as_str();
        let is_operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_operator && !FUNCTIONS.contains(&name) {
            return Err(Refused::Function(shortened(name)));
        }
        call.target.iter().map(|target| &**target).chain(&call.args).try_for_each(|part| self.expression(part))
    }

    fn entry(self, entry: &'a IdedEntryExpr) -> Result<(), Refused> {
        match &entry.expr {
            EntryExpr::StructField(field) => self.expression(&field.value),
            EntryExpr::MapEntry(entry) => self.expression(&entry.key).and_then(|()| self.expression(&entry.value)),
        }
    }

    /// Its range belongs to what is around it; the rest is done once for each of its elements.
    fn comprehension(self, comprehension: &'a ComprehensionExpr) -> Result<(), Refused> {
        if self.looped.is_some() {
            return Err(Refused::LoopInLoop);
        }
        self.expression(&comprehension.iter_range)?;
        self.expression(&comprehension.accu_init)?;
        let variables = [Some(comprehension.iter_var.as_str()), comprehension.iter_var2.as_deref()];
        let inner = Self { looped: Some(variables), ..self };
        [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result]
            .into_iter()
            .try_for_each(|part| inner.expression(part))
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use cel::Context;
    use proptest::prelude::*;

    use super::*;
    use crate::Expression;

    fn refused(text: &str) -> Refused {
        Expression::compile(text).expect_err(text)
    }

    #[test]
    fn what_no_event_could_make_true() {
        for (text, expected) in [
            ("amount > 100", "unknown variable \"amount\": write event.<attribute>, or data"),
            ("has(event.x) && subject == 'x'", "unknown variable \"subject\": write event.<attribute>, or data"),
            (
                "data.lines.exists(line, lines.sku == 'b')",
                "unknown variable \"lines\": write event.<attribute>, or data",
            ),
            ("T{a: 1} == 1", "unknown type \"T\": no types of messages can be written here"),
        ] {
            assert_eq!(refused(text).to_string(), expected, "{text}");
        }
        assert!(refused("event.type.startWith('x')").to_string().starts_with("unknown function startWith()"));
        assert_eq!(
            refused("data.all(a, data.all(b, b == a))"),
            Refused::LoopInLoop,
            "the work must be proportional to the event"
        );
        assert!(
            Expression::compile("data.filter(a, a > 1).map(a, a + 1).all(a, a > 2)").is_ok(),
            "one after the other"
        );
    }

    #[test]
    fn the_parser_has_its_say() {
        for text in ["", "data.amount >", "data..x", "has(subject)", "a b", "'x", "1 +* 2", "\u{0}", "🦀"] {
            let Refused::Syntax(words) = refused(text) else { panic!("{text}") };
            assert!(words.contains("ERROR: <input>:1:") && words.len() <= MAX_MESSAGE, "{text}: {words}");
        }
    }

    #[test]
    fn every_function_is_there() {
        let env = std::sync::Arc::new(environment().unwrap());
        let works = |text: &str| {
            let program = env.compile(text).unwrap();
            let context = Context::with_env(env.clone());
            cost::within(crate::BUDGET, || program.execute(&context)).0.is_ok()
        };
        for name in FUNCTIONS {
            let global = ["(1)", "('1')", "(true)"].iter().any(|argument| works(&format!("{name}{argument}")));
            assert!(global || works(&format!("'1'.{name}('1')")), "{name}");
        }
    }

    /// On a thread with a stack of 2 MiB, as a test's and a runtime's worker are.
    #[test]
    fn depth_and_length_have_bounds() {
        let nested = |open: &str, close: &str| {
            let times = (MAX_LENGTH - 10) / (open.len() + close.len());
            format!("{}1{}", open.repeat(times), close.repeat(times))
        };
        for text in [
            nested("(", ")"),
            nested("[", "]"),
            nested("-(", ")"),
            nested("size(", ")"),
            nested("{1:", "}"),
            nested("!", ""),
            nested("1+", ""),
            nested("true?1:", ""),
            nested("data.", ""),
            nested("", ".size()"),
            nested("", "[0]"),
            nested("true&&", ""),
        ] {
            let start = &text[..20];
            // A parenthesis is no step, and a double negation none either; but nothing may end the process.
            let _ = Expression::compile(&text).map_err(|refused| assert!(!refused.to_string().is_empty(), "{start}"));
        }
        assert_eq!(refused(&format!("1{} == 2", "+1".repeat(MAX_DEPTH + 10))), Refused::TooDeep);
        assert!(Expression::compile(&vec!["data.a == 1"; 300].join("||")).is_ok(), "long is not deep");
        assert_eq!(refused(&"1".repeat(MAX_LENGTH + 1)), Refused::TooLong(MAX_LENGTH + 1));
    }

    proptest! {
        #[test]
        fn any_text_compiles_or_is_refused(text in "\\PC{0,60}|[a-z0-9.()\\[\\]{}?:!&|<>=+*/%'\" -]{0,80}") {
            let _ = Expression::compile(&text);
        }
    }
}
