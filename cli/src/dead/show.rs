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
    for (name, value) in facts(&letter) {
        if !value.is_empty() {
            print(out, &format!("{:16}{}", format!("{name}:"), text(&value)))?;
        }
    }
    attempts(&letter, out)?;
    let all = api.location().command(&format!("tidegate dead show {} {sequence} -o json", text(handler)));
    shown::event(&letter.stored, is_terminal, &all, out)
}

fn facts(letter: &Letter) -> [(&'static str, String); 10] {
    let Letter { stored, why } = letter;
    [
        ("Reason", why.reason.clone()),
        ("Stored", stored.time.clone()),
        ("Dead since", why.dead_since.clone()),
        ("Event's number", number(why.event_sequence)),
        ("Attempts", number(why.attempts)),
        ("In outages", number(why.outage_attempts)),
        ("First attempt", why.first_attempt.clone()),
        ("Last attempt", why.last_attempt.clone()),
        ("Last status", number(why.last_status)),
        ("Last error", why.last_error.clone()),
    ]
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
