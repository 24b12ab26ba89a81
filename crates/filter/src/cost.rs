//! A budget of work for an evaluation.
//!
//! The interpreter cannot be interrupted, so the expression is changed before it is evaluated: what an operation reads
//! or copies is handed through a function that charges for its size ([`priced`]), and so is each step of a loop. A
//! charge that the budget does not cover is an error, and as all that follows is an error, too, the evaluation soon
//! ends. One side of an `||` that is true still is enough.
//!
//! A unit of work is a byte read, or about a nanosecond.

use std::cell::{Cell, RefCell};

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, MapEntryExpr,
    MapExpr, SelectExpr, operators,
};
use cel::common::types::{CelBool, CelBytes, CelInt, CelList, CelMap, CelString, DYN_TYPE, INT_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use regex::{Regex, RegexBuilder};

type Checked<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// Charges for all that a value holds.
const ALL: &str = "@all";
/// Charges for a copy of it.
const COPY: &str = "@copy";
/// Charges for what `size()` reads: the characters of a string.
const SIZE: &str = "@size";
/// Charges for what `in` reads: a list, but not a map.
const MEMBERS: &str = "@members";
/// Charges for a step of a loop of so many nodes.
const STEP: &str = "@step";
/// Charges for a list, and for a step of so many nodes for each of its elements.
const STEPS: &str = "@steps";

/// Units for a value, however small.
const VALUE: u64 = 16;
/// Units for each unit that is copied: so that what is copied has a bound, too.
const COPIED: u64 = 16;
/// Units for a node of a loop's body.
const NODE: i64 = 50;
/// Units for a regular expression that is compiled.
const COMPILE: u64 = 5_000_000;
/// A longer regular expression is refused, in bytes.
const REGEX_LENGTH: usize = 4096;
/// A regular expression of more bytes than the last of these, compiled, is refused.
const REGEX_SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// So many bytes of a compiled expression cost a unit for each byte of the text.
const REGEX_BYTES: usize = 256;
/// Compiled expressions that a thread remembers.
const REGEXES: usize = 8;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static COMPILED: RefCell<Vec<(String, Compiled)>> = const { RefCell::new(Vec::new()) };
}

/// A regular expression, and what it costs for each byte.
#[derive(Clone)]
struct Compiled {
    regex: Regex,
    price: u64,
}

/// Evaluates within this budget, and says whether it sufficed.
pub fn within<T>(budget: u64, evaluate: impl FnOnce() -> T) -> (T, bool) {
    LEFT.set(budget);
    let value = evaluate();
    (value, LEFT.get() > 0)
}

/// Takes units off the budget. What is over leaves nothing: so does all that follows.
fn charge(units: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get().saturating_sub(units);
    LEFT.set(left);
    if left == 0 { Err(ExecutionError::function_error("budget", "too much work")) } else { Ok(()) }
}

fn charge_len(len: usize, times: u64) -> Result<(), ExecutionError> {
    charge(VALUE.saturating_add(u64::try_from(len).unwrap_or(u64::MAX)).saturating_mul(times))
}

/// The functions that charge, and `matches`.
pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(ALL, ALL, vec![DYN_TYPE], all)?;
    env.add_overload(COPY, COPY, vec![DYN_TYPE], copy)?;
    env.add_overload(SIZE, SIZE, vec![DYN_TYPE], size)?;
    env.add_overload(MEMBERS, MEMBERS, vec![DYN_TYPE], members)?;
    env.add_overload(STEP, STEP, vec![DYN_TYPE, INT_TYPE], step)?;
    env.add_overload(STEPS, STEPS, vec![DYN_TYPE, INT_TYPE], steps)?;
    env.add_overload("matches", "matches_string", vec![STRING_TYPE, STRING_TYPE], matches)?;
    env.add_member_overload("matches", "string_matches", STRING_TYPE, vec![STRING_TYPE], matches)
}

fn all<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    let value = first(args)?;
    charge_all(value.as_ref(), 1)?;
    Ok(value)
}

fn copy<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    let value = first(args)?;
    charge_all(value.as_ref(), COPIED)?;
    Ok(value)
}

fn size<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    let value = first(args)?;
    charge_len(value.downcast_ref::<CelString>().map_or(0, |text| text.inner().len()), 1)?;
    Ok(value)
}

fn members<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    let value = first(args)?;
    match value.downcast_ref::<CelMap>() {
        Some(_) => charge(VALUE)?,
        None => charge_all(value.as_ref(), 1)?,
    }
    Ok(value)
}

fn step<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    charge(price(args.get(1)))?;
    first(args)
}

fn steps<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    let price = price(args.get(1));
    let range = first(args)?;
    charge_all(range.as_ref(), 1)?;
    let list = range.downcast_ref::<CelList>().map(|list| list.inner().len());
    let length = list.or_else(|| range.downcast_ref::<CelMap>().map(|map| map.inner().len())).unwrap_or(0);
    charge(price.saturating_mul(u64::try_from(length).unwrap_or(u64::MAX)))?;
    Ok(range)
}

fn first<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    args.into_iter().next().ok_or(ExecutionError::MissingArgumentOrTarget)
}

fn price(arg: Option<&CowVal<'_, '_>>) -> u64 {
    let units = arg.and_then(|units| units.downcast_ref::<CelInt>()).map(|units| *units.inner());
    units.and_then(|units| u64::try_from(units).ok()).unwrap_or(u64::MAX)
}

fn charge_all(value: &dyn Val, times: u64) -> Result<(), ExecutionError> {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return charge_len(text.inner().len(), times);
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        return charge_len(bytes.inner().len(), times);
    }
    charge_len(0, times)?;
    if let Some(list) = value.downcast_ref::<CelList>() {
        list.inner().iter().try_for_each(|item| charge_all(item.as_ref(), times))
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        map.inner().iter().try_for_each(|(key, item)| {
            charge_all(key.inner(), times)?;
            charge_all(item.as_ref(), times)
        })
    } else {
        Ok(())
    }
}

fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Checked<'b, 'v> {
    let texts: Vec<&str> =
        args.iter().filter_map(|arg| arg.downcast_ref::<CelString>().map(CelString::inner)).collect();
    let [text, pattern] = texts[..] else { return Err(ExecutionError::MissingArgumentOrTarget) };
    let Compiled { regex, price } = compiled(pattern)?;
    charge(VALUE.saturating_add(price.saturating_mul(u64::try_from(text.len()).unwrap_or(u64::MAX))))?;
    Ok(CowVal::owned(CelBool::from(regex.is_match(text))))
}

/// The compiled expression, remembered: it is the same for all elements of a loop, and for all events.
fn compiled(pattern: &str) -> Result<Compiled, ExecutionError> {
    let known =
        COMPILED.with_borrow(|all| all.iter().find(|(text, _)| text == pattern).map(|(_, found)| found.clone()));
    if let Some(known) = known {
        return Ok(known);
    }
    charge(COMPILE)?;
    let too_large = || ExecutionError::function_error("matches", "the regular expression is too large");
    if pattern.len() > REGEX_LENGTH {
        return Err(too_large());
    }
    let compile = |size: &usize| RegexBuilder::new(pattern).size_limit(*size).dfa_size_limit(1 << 20).build();
    // The library does not say how large it is: the smallest limit that it fits does.
    let mut tried = REGEX_SIZES.iter().map(|size| (size, compile(size)));
    let (size, regex) = loop {
        match tried.next() {
            Some((size, Ok(regex))) => break (*size, regex),
            Some((_, Err(regex::Error::CompiledTooBig(_)))) => {}
            Some((_, Err(error))) => return Err(ExecutionError::function_error("matches", error)),
            None => return Err(too_large()),
        }
    };
    let price = u64::try_from(size / REGEX_BYTES).unwrap_or(u64::MAX);
    let found = Compiled { regex, price };
    COMPILED.with_borrow_mut(|all| {
        if all.len() >= REGEXES {
            all.remove(0);
        }
        all.push((pattern.to_owned(), found.clone()));
    });
    Ok(found)
}

/// The expression, with charges for what it reads and copies.
pub fn priced(expression: IdedExpr) -> IdedExpr {
    let IdedExpr { id, expr } = expression;
    let expr = match expr {
        Expr::Call(call) => Expr::Call(priced_call(call)),
        Expr::Select(SelectExpr { operand, field, test }) => {
            Expr::Select(SelectExpr { operand: Box::new(priced(*operand)), field, test })
        }
        Expr::List(ListExpr { elements, optional_indices }) => {
            let elements = elements.into_iter().map(|element| charged(COPY, priced(element))).collect();
            Expr::List(ListExpr { elements, optional_indices })
        }
        Expr::Map(MapExpr { entries }) => {
            Expr::Map(MapExpr { entries: entries.into_iter().map(priced_entry).collect() })
        }
        Expr::Comprehension(comprehension) => Expr::Comprehension(Box::new(priced_loop(*comprehension))),
        other @ (Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified) => other,
    };
    IdedExpr { id, expr }
}

fn priced_entry(entry: IdedEntryExpr) -> IdedEntryExpr {
    let expr = match entry.expr {
        EntryExpr::MapEntry(MapEntryExpr { key, value, optional }) => {
            let of = |part| charged(COPY, priced(part));
            EntryExpr::MapEntry(MapEntryExpr { key: of(key), value: of(value), optional })
        }
        other @ EntryExpr::StructField(_) => other,
    };
    IdedEntryExpr { id: entry.id, expr }
}

fn priced_call(call: CallExpr) -> CallExpr {
    let CallExpr { func_name, target, args } = call;
    let mut target = target.map(|target| priced(*target));
    let mut args: Vec<IdedExpr> = args.into_iter().map(priced).collect();
    match func_name.as_str() {
        // No more is read than the shorter of both has.
        operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
            if !args.iter().any(is_literal) =>
        {
            args = first_charged(args);
        }
        operators::IN => {
            let mut sides = args.into_iter();
            args = [(ALL, sides.next()), (MEMBERS, sides.next())]
                .into_iter()
                .filter_map(|(how, side)| side.map(|side| charged(how, side)))
                .collect();
        }
        operators::INDEX => {
            let mut sides = args.into_iter();
            args = sides.next().into_iter().chain(sides.next().map(|index| charged(ALL, index))).collect();
        }
        "size" => {
            target = target.map(|target| charged(SIZE, target));
            args = args.into_iter().map(|arg| charged(SIZE, arg)).collect();
        }
        "startsWith" | "endsWith" if target.is_some() => args = all_charged(ALL, args),
        operators::ADD | "string" | "bytes" => {
            target = target.map(|target| charged(COPY, target));
            args = all_charged(COPY, args);
        }
        name if reads(name) => {
            target = target.map(|target| charged(ALL, target));
            args = all_charged(ALL, args);
        }
        _ => {}
    }
    CallExpr { func_name, target: target.map(Box::new), args }
}

/// Whether a function reads what it is given, like most. `matches` charges for itself.
fn reads(name: &str) -> bool {
    name != "matches" && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn all_charged(how: &str, args: Vec<IdedExpr>) -> Vec<IdedExpr> {
    args.into_iter().map(|arg| charged(how, arg)).collect()
}

fn first_charged(args: Vec<IdedExpr>) -> Vec<IdedExpr> {
    let of = |(place, arg)| if place == 0 { charged(ALL, arg) } else { arg };
    args.into_iter().enumerate().map(of).collect()
}

/// The interpreter knows some loops by their form, which stays: the charge for a step is in the condition, or, where
/// that is none, in the range.
fn priced_loop(comprehension: ComprehensionExpr) -> ComprehensionExpr {
    let nodes = count(&comprehension.loop_cond) + count(&comprehension.loop_step);
    let units = NODE.saturating_mul(i64::try_from(nodes).unwrap_or(i64::MAX));
    let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, accu_init, loop_cond, loop_step, result } =
        comprehension;
    let (range, condition) = (priced(iter_range), priced(loop_cond));
    let (iter_range, loop_cond) = if is_literal(&condition) {
        (stepped(STEPS, range, units), condition)
    } else {
        (charged(ALL, range), stepped(STEP, condition, units))
    };
    ComprehensionExpr {
        iter_range,
        iter_var,
        iter_var2,
        accu_var,
        accu_init: priced(accu_init),
        loop_cond,
        loop_step: priced(loop_step),
        result: priced(result),
    }
}

/// What is written out is no longer than the expression itself, and the parser's own names stand for what was charged.
fn charged(how: &str, value: IdedExpr) -> IdedExpr {
    match &value.expr {
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => value,
        Expr::Ident(name) if name.starts_with('@') => value,
        _ => called(how, vec![value]),
    }
}

fn stepped(how: &str, value: IdedExpr, units: i64) -> IdedExpr {
    let id = value.id;
    called(how, vec![value, IdedExpr { id, expr: Expr::Literal(LiteralValue::Int(CelInt::from(units))) }])
}

fn called(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    let id = args.first().map_or(0, |arg| arg.id);
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }) }
}

fn is_literal(expression: &IdedExpr) -> bool {
    matches!(expression.expr, Expr::Literal(_))
}

/// The nodes of an expression.
fn count(expression: &IdedExpr) -> usize {
    let below = match &expression.expr {
        Expr::Call(call) => call.target.iter().map(|target| count(target)).chain(call.args.iter().map(count)).sum(),
        Expr::Select(select) => count(&select.operand),
        Expr::List(list) => list.elements.iter().map(count).sum(),
        Expr::Map(map) => map.entries.iter().map(count_entry).sum(),
        Expr::Comprehension(inner) => {
            [&inner.iter_range, &inner.loop_cond, &inner.loop_step, &inner.result].into_iter().map(count).sum()
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => 0,
    };
    1 + below
}

fn count_entry(entry: &IdedEntryExpr) -> usize {
    match &entry.expr {
        EntryExpr::MapEntry(entry) => count(&entry.key) + count(&entry.value),
        EntryExpr::StructField(field) => count(&field.value),
    }
}
