//! The header block of a message: checked once, then read where it lies.
//!
//! The form is that of ADR-4 (`NATS/1.0[ status[ description]]`, lines `name: value`, an empty line), with the rules of
//! RFC 9110 for what a value may contain, so that a line that passed can be copied into an HTTP/1.1 request.

/// The version with which every block begins.
const VERSION: &[u8] = b"NATS/1.0";
const LINE_END: &[u8] = b"\r\n";

/// The most bytes of headers that are read. JetStream stores no more (`errHeaderTooBig` of nats-server), and of a
/// message that was not stored nothing that long is an event.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The headers of most events have room in it.
const USUAL_BYTES: usize = 512;

/// What is wrong with a header block. Its author is whoever published the message; the server passes it on unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is larger than [`MAX_HEADER_BYTES`].
    #[error("there are more than 64 KiB of headers")]
    TooLarge,
    /// It does not begin with the version.
    #[error("the headers do not begin with NATS/1.0")]
    Version,
    /// The status is not a number of three digits, from 100 on.
    #[error("the status is not a number from 100 to 999")]
    Status,
    /// A line has no colon.
    #[error("a header has no colon")]
    Colon,
    /// A name is empty, or has a character that is not visible ASCII.
    #[error("the name of a header is not visible ASCII")]
    Name,
    /// A value has a control character.
    #[error("the value of a header has a control character")]
    Value,
    /// Something is not UTF-8.
    #[error("the headers are not UTF-8")]
    Encoding,
    /// A line does not end with CR LF, or the block does not end with an empty line.
    #[error("the headers have no end")]
    End,
}

/// Checks a whole header block and returns its status, if it has one.
///
/// # Errors
/// What is wrong with it.
pub fn check(block: &[u8]) -> Result<Option<u16>, HeaderError> {
    if block.len() > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLarge);
    }
    std::str::from_utf8(block).map_err(|_| HeaderError::Encoding)?;
    let rest = block.strip_prefix(VERSION).ok_or(HeaderError::Version)?;
    let (first, mut rest) = split_line(rest)?;
    let status = status(first)?;
    while rest != LINE_END {
        let (line, next) = split_line(rest)?;
        check_line(line)?;
        rest = next;
    }
    Ok(status)
}

fn check_line(line: &[u8]) -> Result<(), HeaderError> {
    if line.is_empty() {
        return Err(HeaderError::End);
    }
    let colon = memchr::memchr(b':', line).ok_or(HeaderError::Colon)?;
    let (name, value) = line.split_at(colon);
    if !is_name(name) {
        return Err(HeaderError::Name);
    }
    if is_value(value) { Ok(()) } else { Err(HeaderError::Value) }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && is_all(name, |byte| byte.is_ascii_graphic() && byte != b':')
}

fn is_value(value: &[u8]) -> bool {
    is_all(value, |byte| !byte.is_ascii_control() || byte == b'\t')
}

/// As `all`, without stopping at the first that is not: so many bytes are looked at at a time.
fn is_all(text: &[u8], is_good: impl Fn(u8) -> bool) -> bool {
    text.iter().fold(true, |all, byte| all & is_good(*byte))
}

/// A line without its end, and what comes after it.
fn split_line(text: &[u8]) -> Result<(&[u8], &[u8]), HeaderError> {
    let end = memchr::memchr(b'\n', text).ok_or(HeaderError::End)?;
    let line = text[..end].strip_suffix(b"\r").ok_or(HeaderError::End)?;
    Ok((line, &text[end + 1..]))
}

/// The status in what follows the version on the first line.
fn status(text: &[u8]) -> Result<Option<u16>, HeaderError> {
    if !text.is_empty() && !text.starts_with(b" ") {
        return Err(HeaderError::Version);
    }
    if !is_value(text) {
        return Err(HeaderError::Value);
    }
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    match digits {
        [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Ok(Some(digit(hundreds) * 100 + digit(tens) * 10 + digit(ones)))
        }
        _ => Err(HeaderError::Status),
    }
}

/// The headers of a message, over its bytes. Names are compared without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    first: &'a str,
    lines: &'a str,
}

impl<'a> Headers<'a> {
    /// Reads a block for which [`check`] found nothing wrong; of any other one nothing is found in it.
    pub(super) fn of_checked(block: &'a [u8]) -> Self {
        let text = std::str::from_utf8(block).unwrap_or_default();
        // The first line ends before this, and nothing in it does: it has no control character.
        let end = memchr::memchr(b'\r', text.as_bytes()).unwrap_or_default();
        let (first, rest) = text.split_at_checked(end).unwrap_or_default();
        let lines = rest.strip_prefix("\r\n").and_then(|rest| rest.strip_suffix("\r\n"));
        Self { first, lines: lines.unwrap_or_default() }
    }

    /// Reads a header block that did not come with a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(block: &'a [u8]) -> Result<Self, HeaderError> {
        check(block).map(|_| Self::of_checked(block))
    }

    /// Each header's name and value, in the order in which they stand.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        lines(self.lines).filter_map(|line| {
            let (name, value) = line.split_at_checked(memchr::memchr(b':', line.as_bytes())?)?;
            Some((name, value.get(1..)?.trim_ascii()))
        })
    }

    /// The value of the first header of this name.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.get_all(name).next()
    }

    /// The values of all headers of this name.
    pub fn get_all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The lines as they came, `name: value` and CR LF each, without the first line and the empty one.
    pub fn as_lines(&self) -> &'a str {
        self.lines
    }

    /// The text after the status.
    pub fn description(&self) -> Option<&'a str> {
        let text = self.first.get(VERSION.len()..)?.trim_ascii();
        text.split_once(' ').map(|(_, description)| description.trim_ascii())
    }
}

/// The lines of a block, without their ends.
fn lines(mut text: &str) -> impl Iterator<Item = &str> + Clone {
    std::iter::from_fn(move || {
        let (line, rest) = text.split_at_checked(memchr::memchr(b'\r', text.as_bytes())?)?;
        text = rest.get(LINE_END.len()..)?;
        Some(line)
    })
}

/// A header that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header to be sent has an unsuitable name or value")]
pub struct InvalidHeader;

/// Headers to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderBlock(Vec<u8>);

impl Default for HeaderBlock {
    fn default() -> Self {
        let mut block = Vec::with_capacity(USUAL_BYTES);
        block.extend_from_slice(VERSION);
        block.extend_from_slice(LINE_END);
        Self(block)
    }
}

impl HeaderBlock {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header.
    ///
    /// # Errors
    /// The name is not visible ASCII, or the value has a control character. Nothing is added.
    pub fn append(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        if !is_name(name.as_bytes()) || !is_value(value.as_bytes()) {
            return Err(InvalidHeader);
        }
        for part in [name, ": ", value, "\r\n"] {
            self.0.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }

    /// Adds the headers of a message as they came.
    pub fn append_all(&mut self, headers: Headers<'_>) {
        self.0.extend_from_slice(headers.as_lines().as_bytes());
    }

    /// Bytes on the wire, the empty line included.
    pub fn encoded_len(&self) -> usize {
        self.0.len() + LINE_END.len()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_with(None, out);
    }

    /// Writes the block with these headers, too.
    pub(super) fn encode_with(&self, more: Option<&Self>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
        out.extend_from_slice(more.map_or(&[], Self::lines));
        out.extend_from_slice(LINE_END);
    }

    /// The headers without the first line.
    pub(super) fn lines(&self) -> &[u8] {
        self.0.get(VERSION.len() + LINE_END.len()..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn well_formed_blocks() {
        for (block, status, headers) in [
            ("NATS/1.0\r\n\r\n", None, &[][..]),
            ("NATS/1.0 \r\n\r\n", None, &[]),
            ("NATS/1.0 503\r\n\r\n", Some(503), &[]),
            ("NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n", Some(100), &[("Nats-Last-Consumer", "7")]),
            ("NATS/1.0\r\na:b\r\nA: \tc d \r\nempty:\r\n\r\n", None, &[("a", "b"), ("A", "c d"), ("empty", "")]),
            ("NATS/1.0\r\nx: a:b: größe\r\n\r\n", None, &[("x", "a:b: größe")]),
        ] {
            assert_eq!(check(block.as_bytes()), Ok(status), "{block:?}");
            let view = Headers::parse(block.as_bytes()).unwrap();
            assert_eq!(view.iter().collect::<Vec<_>>(), headers, "{block:?}");
        }
    }

    #[test]
    fn malformed_blocks() {
        use HeaderError::{Colon, Encoding, End, Name, Status, TooLarge, Value, Version};
        for (block, error) in [
            (&b""[..], Version),
            (b"x\r\n\r\n", Version),
            (b"NATS/1.0", End),
            (b"NATS/1.0\r\n", End),
            (b"NATS/1.0\n\n", End),
            (b"NATS/1.1\r\n\r\n", Version),
            (b"NATS/1.0503\r\n\r\n", Version),
            (b"NATS/1.0 99999\r\n\r\n", Status),
            (b"NATS/1.0 099\r\n\r\n", Status),
            (b"NATS/1.0 abc\r\n\r\n", Status),
            (b"NATS/1.0 503 \x00\r\n\r\n", Value),
            (b"NATS/1.0\r\nno colon\r\n\r\n", Colon),
            (b"NATS/1.0\r\n: x\r\n\r\n", Name),
            (b"NATS/1.0\r\na b: x\r\n\r\n", Name),
            (b"NATS/1.0\r\na: x\r\n folded: y\r\n\r\n", Name),
            (b"NATS/1.0\r\na: x\ry\r\n\r\n", Value),
            (b"NATS/1.0\r\na: x\ny: z\r\n\r\n", End),
            (b"NATS/1.0\r\na: \x00\r\n\r\n", Value),
            (b"NATS/1.0\r\na: \xFF\r\n\r\n", Encoding),
            (b"NATS/1.0\r\na: x\r\n", End),
            (b"NATS/1.0\r\n\r\na: x\r\n\r\n", End),
        ] {
            assert_eq!(check(block), Err(error), "{:?}", String::from_utf8_lossy(block));
        }
        let large = format!("NATS/1.0\r\na: {}\r\n\r\n", "x".repeat(MAX_HEADER_BYTES));
        assert_eq!(check(large.as_bytes()), Err(TooLarge));
    }

    #[test]
    fn names_are_found_in_any_case() {
        let view = Headers::parse(b"NATS/1.0 408 Timed  Out\r\nA-B: 1\r\na-b: 2\r\n\r\n").unwrap();
        assert_eq!(view.get("a-B"), Some("1"));
        assert_eq!(view.get_all("A-b").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(view.get("c"), None);
        assert_eq!(view.description(), Some("Timed  Out"));
        assert_eq!(view.as_lines(), "A-B: 1\r\na-b: 2\r\n");
    }

    #[test]
    fn no_line_can_be_slipped_into_a_block() {
        let mut block = HeaderBlock::new();
        for (name, value) in [("a", "x\r\ny: z"), ("a\r\n", ""), ("", "x"), ("a:", "x"), ("a", "\0"), ("a b", "")] {
            assert_eq!(block.append(name, value), Err(InvalidHeader), "{name:?}: {value:?}");
        }
        assert_eq!(block, HeaderBlock::new());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(headers in proptest::collection::vec(("[!-9;-~]{1,9}", "([!-~ä]([ -~ä]{0,9}[!-~ä])?)?"), 0..9)) {
            let (mut block, mut wire) = (HeaderBlock::new(), Vec::new());
            headers.iter().try_for_each(|(name, value)| block.append(name, value)).unwrap();
            block.encode(&mut wire);
            prop_assert_eq!(wire.len(), block.encoded_len());
            let view = Headers::parse(&wire).unwrap();
            prop_assert!(view.iter().eq(headers.iter().map(|(name, value)| (&**name, &**value))));
            let mut copy = HeaderBlock::new();
            copy.append_all(view);
            prop_assert_eq!(copy, block);
        }

        #[test]
        fn a_checked_block_has_only_lines_that_http_takes(block in "NATS/1.0( [0-9]{3})?(\r\n|\r|\n|[ -~]{0,3}:? ?[ -~\0é]{0,3}){0,6}(\r\n\r\n)?") {
            if let Ok(view) = Headers::parse(block.as_bytes()) {
                prop_assert_eq!(view.iter().count(), view.as_lines().matches("\r\n").count());
                prop_assert!(view.iter().all(|(name, value)| is_name(name.as_bytes()) && is_value(value.as_bytes())));
            }
        }
    }
}
