//! What is written to a terminal. Events are written by strangers: nothing of them reaches it but visible characters.

use std::io::{self, Write};

use tidegate_broker_client::outcomes::single_line;

use crate::failure::Failure;

/// The longest text of somebody else that is shown in a line, in bytes.
const MAX_TEXT: usize = 200;
/// What stands for the rest of it.
const CUT: &str = "…";
/// The longest line of a program, in bytes.
pub const MAX_LINE: usize = 8 << 10;

/// A text of somebody else as a part of a line. One that is too long ends with `…`.
pub fn text(text: &str) -> String {
    let shown = single_line(text, MAX_TEXT);
    // A character each.
    if text.trim().chars().nth(shown.chars().count()).is_none() {
        return shown;
    }
    single_line(text, MAX_TEXT - CUT.len()) + CUT
}

/// A line of a program.
pub fn line(line: &str) -> String {
    indented(line, MAX_LINE)
}

/// A line of an event's data, as long as it is.
pub fn data_line(line: &str) -> String {
    indented(line, usize::MAX)
}

fn indented(line: &str, limit: usize) -> String {
    let without_tabs = line.trim_end().replace('\t', "    ");
    // Its indentation stays.
    let start = without_tabs.len() - without_tabs.trim_start().len();
    format!("{}{}", " ".repeat(start.min(limit)), single_line(&without_tabs, limit))
}

/// Writes a line to standard output.
///
/// # Errors
/// Nobody reads it any more.
pub fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(unread)
}

/// Writes a line to standard error. That nobody reads it changes nothing of what is done.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// That nobody reads the output.
pub fn unread(error: io::Error) -> Failure {
    Failure::Failed(format!("standard output: {error}: let what reads it go on to the end, or write to a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_event_is_an_escape() {
        for bad in ["a\u{1b}[2Jb", "a\u{9b}2Jb", "a\r\nb", "a\u{7}b", "a\u{202e}b", "\u{1b}]0;title\u{7}"] {
            for shown in [text(bad), line(bad)] {
                let is_plain = |c: char| !c.is_control() && c != '\u{202e}';
                assert!(shown.chars().all(is_plain), "{shown:?}");
            }
        }
        assert_eq!(text("a\u{1b}[2Jb"), "a [2Jb");
        assert_eq!(line("  \tindented\t1\n"), "      indented    1");
    }

    #[test]
    fn what_is_left_out_of_a_text_is_marked() {
        for whole in ["", " a b ", &"a".repeat(MAX_TEXT), &"ä".repeat(MAX_TEXT / 2), &format!("{:300}", "a")] {
            assert_eq!(text(whole), whole.trim());
        }
        for long in ["a".repeat(MAX_TEXT + 1), "ä".repeat(1000), "\u{1b}".repeat(1000)] {
            let shown = text(&long);
            assert!(shown.ends_with('…') && (MAX_TEXT - 4..=MAX_TEXT).contains(&shown.len()), "{shown:?}");
        }
    }
}
