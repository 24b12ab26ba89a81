//! An event for people.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_cloudevents::Event;

use crate::failure::Failure;
use crate::output::print;
use crate::stored::Stored;
use crate::terminal::{data_line, text};

/// Bytes of data that a terminal gets.
const MAX_SHOWN: usize = 16 << 10;
/// Bytes of binary data that are shown.
const MAX_BINARY: usize = 256;
/// Bytes in a line of them.
const HEX_LINE: usize = 16;

/// Writes an event's attributes and data. `all`: the command that shows what a terminal does not get.
///
/// # Errors
/// The output is gone.
pub fn event(stored: &Stored, is_terminal: bool, all: &str, out: &mut dyn Write) -> Result<(), Failure> {
    print(out, "")?;
    if let Some(event) = stored.event() {
        for (name, value) in event.attributes() {
            print(out, &format!("{name:16}{}", text(value)))?;
        }
        return data(event.data().map(AsRef::as_ref), is_terminal, all, out);
    }
    if let Some(problem) = &stored.problem {
        print(out, &text(problem))?;
    }
    let bytes = stored.data_base64.as_deref().and_then(|encoded| STANDARD.decode(encoded).ok());
    match (bytes, stored.event_json()) {
        (None, Some(json)) => data(Some(json.as_bytes()), is_terminal, all, out),
        (bytes, _) => data(bytes.as_deref(), is_terminal, all, out),
    }
}

fn data(data: Option<&[u8]>, is_terminal: bool, all: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(data) = data.filter(|data| !data.is_empty()) else { return print(out, "\nNo data") };
    let length = data.len();
    let Some(written) = as_text(data) else {
        print(out, &format!("\nData: {length} bytes, not text"))?;
        for (number, line) in data[..length.min(MAX_BINARY)].chunks(HEX_LINE).enumerate() {
            print(out, &format!("{:08x}  {}", number * HEX_LINE, hex(line)))?;
        }
        return if length > MAX_BINARY { left_out(length - MAX_BINARY, all, out) } else { Ok(()) };
    };
    print(out, &format!("\nData: {length} bytes"))?;
    let end = if is_terminal { written.floor_char_boundary(MAX_SHOWN) } else { length };
    for line in written[..end].lines() {
        print(out, &data_line(line))?;
    }
    if end < length { left_out(length - end, all, out) } else { Ok(()) }
}

fn left_out(bytes: usize, all: &str, out: &mut dyn Write) -> Result<(), Failure> {
    print(out, &format!("… {bytes} more bytes: {all} writes all of them"))
}

/// Data as a part of a line: its beginning, or how much of what is no text there is.
pub fn beginning(event: &Event) -> String {
    let data: &[u8] = event.data().map_or(&[], AsRef::as_ref);
    match as_text(data) {
        Some(written) => text(&written[..written.floor_char_boundary(4 * MAX_BINARY)]),
        None => format!("{} bytes: {}", data.len(), hex(&data[..data.len().min(HEX_LINE)])),
    }
}

/// Data that people can read: characters, lines and tabs. What has one control character more is shown as bytes, so that
/// nothing of it is lost unseen.
fn as_text(data: &[u8]) -> Option<&str> {
    str::from_utf8(data).ok().filter(|text| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::is_visible;

    fn shown(item: &serde_json::Value, is_terminal: bool) -> String {
        let mut out = Vec::new();
        let stored: Stored = serde_json::from_str(&item.to_string()).unwrap();
        event(&stored, is_terminal, "tidegate x", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(is_visible), "{text:?}");
        text
    }

    fn of(data: &[u8]) -> serde_json::Value {
        let event = json!({
            "specversion": "1.0", "id": "a\u{202e}b", "source": "/s", "type": "t", "datacontenttype": "text/plain",
            "data_base64": STANDARD.encode(data),
        });
        json!({"sequence": 1, "event": event})
    }

    #[test]
    fn text_is_shown_in_lines_and_cut_in_a_terminal_alone() {
        assert!(shown(&of(b"one\n\ttwo"), true).ends_with("Data: 8 bytes\none\n    two\n"));
        let long = "äb ".repeat(3 << 20);
        let cut = shown(&of(long.as_bytes()), true);
        assert!(
            cut.len() < 2 * MAX_SHOWN && cut.ends_with("more bytes: tidegate x writes all of them\n"),
            "{}",
            cut.len()
        );
        assert!(shown(&of(long.as_bytes()), false).contains(long.trim_end()));
    }

    #[test]
    fn what_is_no_text_is_shown_as_bytes() {
        let binary = shown(&of(b"\x1b[2Jdata"), true);
        assert!(binary.ends_with("Data: 8 bytes, not text\n00000000  1b 5b 32 4a 64 61 74 61\n"), "{binary}");
        let long = shown(&of(&[0; 1000]), false);
        assert!(long.lines().count() < 30 && long.contains("… 744 more bytes: tidegate x"), "{long}");
        assert!(shown(&of(b""), true).ends_with("No data\n"));
    }

    #[test]
    fn what_is_no_event_is_shown_too() {
        let text = shown(&json!({"problem": "no \u{9b}type", "dataBase64": STANDARD.encode("x")}), true);
        assert!(text.contains("no  type") && text.ends_with("Data: 1 bytes\nx\n"), "{text}");
        assert!(shown(&json!({"event": {"data": "no id"}}), true).contains("no id"));
    }
}
