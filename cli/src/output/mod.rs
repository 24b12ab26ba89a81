//! How commands write what they found: as a table for people, or as documents for programs.

mod yaml;

use std::io::{self, BufWriter, Write};

use clap::ValueEnum;
use tidegate_broker_client::outcomes::single_line;

use crate::failure::Failure;
use crate::terminal;

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[value(alias = "table")]
    Text,
    /// A JSON document in each line.
    Json,
    /// YAML documents.
    Yaml,
}

/// A JSON document as this format has it, without its last line's end. Nothing is left out of it, and what a terminal
/// would act on is escaped.
pub fn document(json: &str, format: Format) -> String {
    if format != Format::Yaml {
        return escaped(json);
    }
    format!("---\n{}", yaml::of_json(json).unwrap_or_else(|| escaped(json)))
}

/// JSON in one line without invisible characters, of which strings have escapes instead. It means the same.
fn escaped(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // Not inside a string, where JSON does not have them.
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_ascii_graphic() || c == ' ' || is_visible(c.encode_utf8(&mut [0; 4])) => line.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    line.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    line
}

/// Whether a terminal shows this as it is.
pub fn is_visible(text: &str) -> bool {
    text.chars().all(|c| c == ' ' || single_line(c.encode_utf8(&mut [0; 4]), 4) == *c.encode_utf8(&mut [0; 4]))
}

/// A line of a table: each value as wide as its column, the last as long as it is.
pub fn row<const N: usize>(widths: [usize; N], values: [&str; N]) -> String {
    let mut line = String::new();
    for (width, value) in widths.into_iter().zip(values) {
        let value = match value.is_empty() {
            true => "-".to_owned(),
            false => terminal::text(value),
        };
        line.push_str(&format!("{value:width$}  "));
    }
    line.trim_end().to_owned()
}

/// Standard output.
pub fn stdout() -> impl Write {
    BufWriter::new(io::stdout().lock())
}

/// Writes a line.
///
/// # Errors
/// Whoever reads it is gone, or there is no room.
pub fn print(out: &mut dyn Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{line}").map_err(unwritten)
}

/// Writes what was kept back so far.
///
/// # Errors
/// As [`print`].
pub fn flush(out: &mut dyn Write) -> Result<(), Failure> {
    out.flush().map_err(unwritten)
}

/// That something was not written.
fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::Failed(format!("the output cannot be written: {error}: make room, or write it elsewhere")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOSTILE: &str = "a\u{1b}[2Jb\u{9b}2J\u{202e}c\u{7f}\u{200b}\u{feff}ä😀\u{e0001}\"\\\n\t";

    #[test]
    fn documents_mean_the_same_and_do_nothing_to_a_terminal() {
        for text in [HOSTILE, "plain", "", "  x ", "- a: b #", "line\nline\n"] {
            let value = json!({"text": text, text: [1, null], "n": 1.5});
            for format in [Format::Json, Format::Yaml] {
                let shown = document(&value.to_string(), format);
                assert!(shown.lines().all(is_visible), "{shown:?}");
                let yaml = shown.trim_start_matches("---\n");
                let read: Value = match format {
                    Format::Yaml => serde_saphyr::from_str(yaml).unwrap(),
                    _ => serde_json::from_str(&shown).unwrap(),
                };
                assert_eq!(read, value, "{shown}");
            }
            assert_eq!(document(&value.to_string(), Format::Json).lines().count(), 1);
        }
    }

    #[test]
    fn numbers_stay_as_they_are_written() {
        let json = "{\n\t\"data\": 12345678901234567890123.0}";
        assert_eq!(document(json, Format::Json), "{  \"data\": 12345678901234567890123.0}");
    }

    #[test]
    fn a_row_shows_no_escape_and_says_what_is_empty() {
        assert_eq!(row([4, 3, 0], ["1", "", "x\u{1b}[2Jy"]), "1     -    x [2Jy");
    }

    #[test]
    fn a_pipe_that_is_closed_is_no_failure_to_speak_of() {
        struct Closed(io::ErrorKind);
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = |kind| print(&mut Closed(kind), "a").unwrap_err();
        assert!(matches!(written(io::ErrorKind::BrokenPipe), Failure::Closed));
        assert!(matches!(written(io::ErrorKind::StorageFull), Failure::Failed(_)));
    }
}
