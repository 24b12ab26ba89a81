//! `filter.expression`: a CEL expression over one event, which must be true for the event to be delivered.
//!
//! Two variables are there, and no others:
//!
//! - `event`, a map of the context attributes as strings (`event.type`, `event.source`, every extension). One that an
//!   event does not have is not in the map: `has(event.subject)` tells.
//! - `data`, the data: of a JSON type, what the JSON says (whole numbers as `int`, others as `double`); of a text
//!   type, a string; of any other, bytes; `null` if there is none.
//!
//! Bare attribute names would be shorter, but `has(subject)` is no CEL, `type` is a function of it, and a misspelt
//! name could not be told from an extension. As it is, [`Expression::compile`] refuses what no event could make true:
//! unknown variables and functions.
//!
//! The operator compiles an expression to refuse its handler at apply; the sidecar compiles and evaluates it. What
//! is evaluated is bounded by what is compiled: the length, the depth, and no loop inside of a loop; and by a budget of
//! work for each evaluation ([`BUDGET`]), because a loop may read all of the event at each of its steps. Timestamps and durations are not part of it (their time zone
//! tables would be a third of the sidecar): an RFC 3339 time is a string here.

mod check;
mod cost;
mod data;
mod expression;
mod reads;

pub use check::{MAX_DEPTH, MAX_LENGTH, Refused};
pub use expression::{BUDGET, Expression, Failed};
