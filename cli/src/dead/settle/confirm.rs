//! The question before something is removed for good.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use super::{Arguments, Choice};
use crate::failure::Failure;
use crate::stored::Location;
use crate::terminal::text;

/// The longest answer that is read, in bytes.
const MAX_REPLY: u64 = 64;
/// Sequences that are named in the question.
const MAX_NAMED: usize = 5;

/// Asks whether it is meant.
///
/// # Errors
/// It is not, or there is no terminal to ask at.
pub fn confirm(arguments: &Arguments, location: &Location) -> Result<(), Failure> {
    let choice = arguments.choice()?;
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(
            "dead drop removes dead letters for good: say --yes, where there is no terminal to ask at",
        ));
    }
    let question = question(&choice, &arguments.handler, location);
    write!(io::stderr(), "{question} [y/N] ").map_err(Failure::failed)?;
    let mut reply = String::new();
    io::stdin().lock().take(MAX_REPLY).read_line(&mut reply).map_err(Failure::failed)?;
    match reply.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was dropped")),
    }
}

fn question(choice: &Choice, handler: &str, location: &Location) -> String {
    let which = match choice {
        Choice::Named(sequences) if sequences.len() > MAX_NAMED => format!("{} dead letters", sequences.len()),
        Choice::Named(sequences) => {
            let named: Vec<String> = sequences.iter().map(u64::to_string).collect();
            format!("dead letter {}", named.join(", "))
        }
        Choice::Found(filter) if filter.is_empty() => "all dead letters".to_owned(),
        Choice::Found(filter) => format!("the dead letters that match {}", filter.words()),
    };
    let context = location.context.as_deref().map(|context| format!(" in context {}", text(context)));
    format!(
        "Remove {which} of EventHandler {}/{}{} for good?",
        text(&location.namespace),
        text(handler),
        context.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead::Filter;
    use crate::moment::parse;

    #[test]
    fn the_question_says_what_is_dropped() {
        let location = Location { namespace: "shop".into(), context: Some("prod".into()) };
        let filter = Filter {
            event_type: Some("order.*".into()),
            since: Some(parse("2h").unwrap()),
            until: Some(parse("2026-01-31T12:00:00Z").unwrap()),
            text: Some("a\u{1b}[2J".into()),
            ..Filter::default()
        };
        for (choice, which) in [
            (Choice::Named(vec![1, 2]), "dead letter 1, 2"),
            (Choice::Found(Filter::default()), "all dead letters"),
            (
                Choice::Found(filter),
                "the dead letters that match --type order.* --since 2h --until 2026-01-31T12:00:00Z --text a [2J",
            ),
        ] {
            let expected = format!("Remove {which} of EventHandler shop/billing in context prod for good?");
            assert_eq!(question(&choice, "billing", &location), expected);
        }
    }
}
