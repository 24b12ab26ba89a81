//! The head of a request, as bytes.

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::head::Headers;

/// Fields that the client itself writes: a second one could end a request somewhere else (RFC 9112, section 11.2).
const OWN_FIELDS: [&str; 4] = ["host", "connection", "content-length", "transfer-encoding"];

/// A header cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// The name is not a token (RFC 9110, section 5.6.2).
    #[error("a header's name is not a token")]
    Name,
    /// The value has a control character (RFC 9110, section 5.5).
    #[error("a header's value has a control character")]
    Value,
    /// The client writes this one itself.
    #[error("a header is one that the client itself writes")]
    OwnField,
}

/// Field lines of a request, encoded and checked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderLines(Vec<u8>);

impl HeaderLines {
    /// None, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// It would be no valid line; nothing was added.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        self.push_prefixed("", name, value)
    }

    /// Adds a line whose name has two parts.
    ///
    /// # Errors
    /// As [`HeaderLines::push`].
    pub fn push_prefixed(&mut self, prefix: &str, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        let begin = self.0.len();
        self.0.extend_from_slice(prefix.as_bytes());
        self.0.extend_from_slice(name.as_bytes());
        let checked = check_name(&self.0[begin..]).and_then(|()| check_value(value));
        if checked.is_err() {
            self.0.truncate(begin);
            return checked;
        }
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Adds lines that are encoded already, each with its CRLF: they are checked, and copied as they are.
    ///
    /// # Errors
    /// One of them is no valid line; nothing was added.
    pub fn push_lines(&mut self, lines: &[u8]) -> Result<(), InvalidHeader> {
        let mut rest = lines;
        while !rest.is_empty() {
            let colon = rest.iter().position(|byte| *byte == b':').ok_or(InvalidHeader::Name)?;
            check_name(&rest[..colon])?;
            let after = &rest[colon + 1..];
            let end = after.iter().position(|byte| *byte == b'\r').ok_or(InvalidHeader::Value)?;
            check_value(&after[..end])?;
            rest = after[end..].strip_prefix(b"\r\n").ok_or(InvalidHeader::Value)?;
        }
        self.0.extend_from_slice(lines);
        Ok(())
    }

    /// Each line as name and value.
    pub fn iter(&self) -> Headers<'_> {
        Headers::new(&self.0)
    }
}

impl std::fmt::Debug for HeaderLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeaderLines({})", self.0.escape_ascii())
    }
}

fn check_name(name: &[u8]) -> Result<(), InvalidHeader> {
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(InvalidHeader::Name);
    }
    let is_own = OWN_FIELDS.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()));
    if is_own { Err(InvalidHeader::OwnField) } else { Ok(()) }
}

fn check_value(value: &[u8]) -> Result<(), InvalidHeader> {
    let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if value.iter().all(is_text) { Ok(()) } else { Err(InvalidHeader::Value) }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How all requests to one place begin.
#[derive(Clone, Debug)]
pub struct RequestPrefix(Box<[u8]>);

impl RequestPrefix {
    /// Of POST requests to this path.
    pub fn post(path: &PathAndQuery, host: &HeaderValue, user_agent: &HeaderValue) -> Self {
        let parts: [&[u8]; 7] = [
            b"POST ",
            path.as_str().as_bytes(),
            b" HTTP/1.1\r\nhost: ",
            host.as_bytes(),
            b"\r\nuser-agent: ",
            user_agent.as_bytes(),
            b"\r\n",
        ];
        Self(parts.concat().into())
    }

    /// Writes the head of a request with a body of so many bytes.
    pub fn encode(&self, lines: &HeaderLines, content_length: usize, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.0);
        into.extend_from_slice(&lines.0);
        into.extend_from_slice(b"content-length: ");
        into.extend_from_slice(itoa::Buffer::new().format(content_length).as_bytes());
        into.extend_from_slice(b"\r\n\r\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_is_written_as_it_is_read() {
        let [host, agent] = ["127.0.0.1:80", "test/1"].map(HeaderValue::from_static);
        let prefix = RequestPrefix::post(&PathAndQuery::from_static("/a?b"), &host, &agent);
        let mut lines = HeaderLines::default();
        lines.push_prefixed("ce-", "id", b"1").unwrap();
        lines.push_lines(b"a:b\r\nC: \td\r\n").unwrap();
        let mut head = b"before ".to_vec();
        prefix.encode(&lines, 1024, &mut head);
        let expected = "before POST /a?b HTTP/1.1\r\nhost: 127.0.0.1:80\r\nuser-agent: test/1\r\nce-id: 1\r\na:b\r\n\
                        C: \td\r\ncontent-length: 1024\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), expected);
    }

    #[test]
    fn what_would_be_another_request_is_refused() {
        let mut lines = HeaderLines::default();
        for (name, value, expected) in [
            ("", "v", InvalidHeader::Name),
            ("a b", "v", InvalidHeader::Name),
            ("a\r\nb", "v", InvalidHeader::Name),
            ("a:", "v", InvalidHeader::Name),
            ("ä", "v", InvalidHeader::Name),
            ("a", "v\r\nb: c", InvalidHeader::Value),
            ("a", "v\nb", InvalidHeader::Value),
            ("a", "\0", InvalidHeader::Value),
            ("a", "\x7f", InvalidHeader::Value),
            ("Content-Length", "0", InvalidHeader::OwnField),
            ("transfer-encoding", "chunked", InvalidHeader::OwnField),
            ("HOST", "example.com", InvalidHeader::OwnField),
        ] {
            assert_eq!(lines.push(name, value.as_bytes()), Err(expected), "{name}: {value}");
            let encoded = format!("x: y\r\n{name}: {value}\r\n");
            // Two of them are good lines once they are encoded, but not the ones that were meant.
            let is_other = value == "v\r\nb: c" || name == "a:";
            assert_eq!(lines.push_lines(encoded.as_bytes()).is_ok(), is_other, "{name}: {value}");
            lines = HeaderLines::default();
        }
        for rubbish in ["x", "x: y", "x: y\r", "x: y\n", "x: y\r\n\r\n", "x: y\r\n z\r\n", ": y\r\n", "x : y\r\n"] {
            assert!(lines.push_lines(rubbish.as_bytes()).is_err(), "{rubbish}");
        }
        assert_eq!(lines, HeaderLines::default(), "nothing of it was added");
    }

    proptest! {
        /// Whatever is taken is one line, and is read back.
        #[test]
        fn a_line_is_one_line(name in "[ -~]{0,8}", value in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut lines = HeaderLines::default();
            if lines.push(&name, &value).is_ok() {
                let mut again = HeaderLines::default();
                prop_assert_eq!(again.push_lines(&lines.0), Ok(()));
                let read: Vec<_> = again.iter().collect();
                prop_assert_eq!(read, vec![(name.as_bytes(), value.trim_ascii())]);
            } else {
                prop_assert_eq!(lines, HeaderLines::default());
            }
        }
    }
}
