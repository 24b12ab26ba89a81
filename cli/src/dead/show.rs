//! `tidegate dead show`.

use std::io::Write;

use http::Method;

use super::letter::Letter;
use crate::failure::Failure;
use crate::output::{Format, document, print, row};
use crate::shown;
use crate::stored::{Api, number, raw};
use crate::terminal::text;

/// Writes one letter.
pub async fn run(
    api: &Api,
    handler: &str,
    sequence: u64,
    format: Format,
    is_terminal: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let path = api.path(None, "eventhandlers", handler, &format!("deadletters/{sequence}"))?;
    let answer = api.call_in_turn(Method::GET, &path, None).await?;
    let item = raw(&answer)?;
    if format != Format::Text {
        return print(out, &document(item.get(), format));
    }
    let letter = Letter::parse(item)?;
    print(out, &format!("Dead letter {sequence} of EventHandler {}/{}", text(api.namespace()), text(handler)))?;
    for (name, value) in letter.facts() {
        if !value.is_empty() {
            print(out, &format!("{:25}{}", format!("{name}:"), text(&value)))?;
        }
    }
    attempts(&letter, out)?;
    let all = api.location().command(&format!("tidegate dead show {} {sequence} -o json", text(handler)));
    shown::event(&letter.stored, is_terminal, &all, out)
}

fn attempts(letter: &Letter, out: &mut dyn Write) -> Result<(), Failure> {
    const WIDTHS: [usize; 3] = [30, 6, 0];
    let mut is_first = true;
    for attempt in letter.history() {
        if is_first {
            is_first = false;
            print(out, &format!("\n{}", row(WIDTHS, ["ATTEMPT", "STATUS", "ERROR"])))?;
        }
        print(out, &row(WIDTHS, [&attempt.time, &number(attempt.status), &attempt.error]))?;
    }
    Ok(())
}
