//! `tidegate dead export`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::value::RawValue;

use super::letter::Letter;
use crate::failure::Failure;
use crate::output::{self, Format, document, print};
use crate::stored::{CallError, Pages};
use crate::terminal::text;

/// What was written.
#[derive(Default)]
struct Written {
    count: u64,
    /// Letters that are no CloudEvent, and the first of them.
    others: u64,
    first_other: u64,
}

/// Writes events page by page, into a file or to the output.
pub async fn run(letters: Pages<'_>, handler: &str, file: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    let mut written = Written::default();
    let location = letters.location();
    match file {
        None => all(letters, &mut written, out).await?,
        Some(path) => {
            let wrong = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
            // A file that cannot be written is found before anything is asked; what was there is replaced only once there is
            // something to replace it with, and not by a call that is refused.
            let file = File::options().write(true).create(true).truncate(false).open(path).map_err(wrong)?;
            let mut letters = letters;
            let first = letters.next().await?;
            // A pipe or a terminal has no length, and nothing to be kept.
            let kept = file.metadata().map_err(wrong)?.is_file();
            if kept {
                file.set_len(0).map_err(wrong)?;
            }
            let mut file = BufWriter::new(file);
            if let Some(first) = first {
                write(&first, &mut written, &mut file)?;
                all(letters, &mut written, &mut file).await?;
            }
            let file = file.into_inner().map_err(|error| wrong(error.into_error()))?;
            if kept {
                file.sync_all().map_err(wrong)?;
            }
            print(out, &format!("{} events are in {}", written.count, text(&path.display().to_string())))?;
        }
    }
    match written.others {
        0 => Ok(()),
        others => {
            let show =
                location.command(&format!("tidegate dead show {} {} -o json", text(handler), written.first_other));
            Err(Failure::Refused(format!(
                "{others} dead letters are no CloudEvents, and are not in it: {show} has the first of them"
            )))
        }
    }
}

async fn all(mut letters: Pages<'_>, written: &mut Written, out: &mut dyn Write) -> Result<(), Failure> {
    loop {
        let page = match letters.next().await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(()),
            Err(error) => return Err(broken_off(error, written.count, letters.next_sequence())),
        };
        write(&page, written, out)?;
    }
}

fn write(page: &[Box<RawValue>], written: &mut Written, out: &mut dyn Write) -> Result<(), Failure> {
    for item in page {
        let letter = Letter::parse(item)?;
        match letter.stored.event_json() {
            Some(event) => {
                print(out, &document(event, Format::Json))?;
                written.count += 1;
            }
            None if written.others > 0 => written.others += 1,
            None => (written.others, written.first_other) = (1, letter.stored.sequence),
        }
    }
    output::flush(out)
}

/// What is there stays, and where to continue is said.
fn broken_off(error: CallError, count: u64, next: Option<&str>) -> Failure {
    match (error, next) {
        (CallError::Away(why) | CallError::Busy(why), Some(next)) => Failure::Failed(format!(
            "{why}; {count} events are written, the others begin with --from {} (into another --file: one is replaced)",
            text(next)
        )),
        (error, _) => error.into(),
    }
}
