//! What an expression asks an event for, as far as it is written out.

use std::collections::BTreeSet;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};

use crate::check::EVENT;

/// The names of the attributes that an expression may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeNames {
    /// Those of these names: `event` is only written as in `event.<name>`.
    Named(BTreeSet<String>),
    /// Any.
    All,
}

impl AttributeNames {
    /// Those that this expression may ask for.
    pub fn of(expression: &IdedExpr) -> Self {
        let mut names = BTreeSet::new();
        if note(expression, &mut names).is_some() { Self::Named(names) } else { Self::All }
    }
}

/// Notes the names in an expression; `None`: `event` stands there without one.
fn note(expression: &IdedExpr, names: &mut BTreeSet<String>) -> Option<()> {
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => Some(()),
        Expr::Ident(name) => (name != EVENT).then_some(()),
        Expr::Select(select) if matches!(&select.operand.expr, Expr::Ident(name) if name == EVENT) => {
            names.insert(select.field.clone());
            Some(())
        }
        Expr::Select(select) => note(&select.operand, names),
        Expr::Call(call) => {
            let mut parts = call.target.iter().map(|target| &**target).chain(&call.args);
            parts.try_for_each(|part| note(part, names))
        }
        Expr::List(list) => list.elements.iter().try_for_each(|element| note(element, names)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| note_entry(&entry.expr, names)),
        Expr::Struct(message) => message.entries.iter().try_for_each(|entry| note_entry(&entry.expr, names)),
        Expr::Comprehension(comprehension) => {
            let parts = [
                &comprehension.iter_range,
                &comprehension.accu_init,
                &comprehension.loop_cond,
                &comprehension.loop_step,
                &comprehension.result,
            ];
            parts.into_iter().try_for_each(|part| note(part, names))
        }
    }
}

fn note_entry(entry: &EntryExpr, names: &mut BTreeSet<String>) -> Option<()> {
    match entry {
        EntryExpr::StructField(field) => note(&field.value, names),
        EntryExpr::MapEntry(entry) => note(&entry.key, names).and_then(|()| note(&entry.value, names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn names_are_found_wherever_they_stand() {
        let env = check::environment().unwrap();
        let of = |text: &str| AttributeNames::of(check::compile(&env, text).unwrap().expression());
        let named = |names: &[&str]| AttributeNames::Named(names.iter().map(|name| (*name).to_owned()).collect());
        for (text, expected) in [
            ("data.a > 1", named(&[])),
            ("event.type == 'x' && event.source != event.type", named(&["source", "type"])),
            ("has(event.subject) || event.id.startsWith('a')", named(&["id", "subject"])),
            ("data.exists(a, a == event.x) || [event.y].size() > 1", named(&["x", "y"])),
            ("{event.k: event.v}.size() == 1 ? true : event.w == ''", named(&["k", "v", "w"])),
            ("size(event) > 5", AttributeNames::All),
            ("event['type'] == 'x'", AttributeNames::All),
            ("'subject' in event && event.type == 'x'", AttributeNames::All),
            ("event.exists(name, name == 'x')", AttributeNames::All),
            ("data.all(a, a == event)", AttributeNames::All),
            ("[event][0].type == 'x'", AttributeNames::All),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }
}
