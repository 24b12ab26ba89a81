//! `tidegate dead list`.

use std::io::Write;

use super::letter::Letter;
use crate::failure::Failure;
use crate::output::{self, Format, document, print, row};
use crate::stored::{Pages, number};
use crate::terminal;

/// Widths of the columns, for what they mostly hold.
const WIDTHS: [usize; 8] = [8, 20, 19, 8, 6, 20, 36, 0];

/// Writes letters page by page.
pub async fn run(
    mut letters: Pages<'_>,
    is_filtered: bool,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut is_first = true;
    while let Some(page) = letters.next().await? {
        for item in &page {
            if format != Format::Text {
                print(out, &document(item.get(), format))?;
                continue;
            }
            if is_first {
                is_first = false;
                print(
                    out,
                    &row(WIDTHS, ["SEQUENCE", "TIME", "REASON", "ATTEMPTS", "STATUS", "TYPE", "ID", "LAST ERROR"]),
                )?;
            }
            print(out, &line(&Letter::parse(item)?))?;
        }
        output::flush(out)?;
    }
    if is_first && format == Format::Text {
        terminal::say(if is_filtered { "no dead letter matches the filter" } else { "no dead letters" });
    }
    Ok(())
}

fn line(letter: &Letter) -> String {
    let Letter { stored, why } = letter;
    let event = stored.event();
    let of = |get: fn(&tidegate_cloudevents::Event) -> &str| event.as_ref().map_or("", get).to_owned();
    row(
        WIDTHS,
        [
            &stored.sequence.to_string(),
            &seconds(&stored.time),
            &why.reason,
            &number(why.attempts),
            &number(why.last_status),
            &of(|event| event.event_type()),
            &of(|event| event.id()),
            stored.problem.as_deref().unwrap_or(&why.last_error),
        ],
    )
}

/// A time without the fractions of its second.
fn seconds(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => format!("{time:.0}"),
        Err(_) => time.to_owned(),
    }
}
