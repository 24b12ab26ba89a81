//! The head of a response, and what it says about the body.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::StatusCode;
use httparse::{ParserConfig, Status};

use super::DecodeError;

/// The longest head of a response, in bytes.
pub const MAX_HEAD_BYTES: usize = 32 << 10;
/// A head has this many field lines at most.
const MAX_FIELDS: usize = 100;

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

/// A head that is complete.
#[derive(Debug)]
pub(super) struct Head {
    pub status: StatusCode,
    /// Its bytes, with the empty line.
    pub len: usize,
    /// Where its field lines are.
    pub fields: Range<usize>,
    pub framing: Framing,
    /// Another response may follow on the connection.
    pub keeps_alive: bool,
}

impl Head {
    /// Reads a head from the beginning of `bytes`; `None`: its end is not there yet.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let bytes = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, bytes, &mut fields)
            .map_err(DecodeError::Head)?;
        let Status::Complete(len) = parsed else {
            return if bytes.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(DecodeError::HeadTooLarge) };
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(DecodeError::Status)?;
        let facts = Facts::gather(response.headers)?;
        let is_http_1_1 = response.version == Some(1);
        let framing = facts.framing(status, is_http_1_1)?;
        let keeps_alive = facts.keeps_alive(is_http_1_1)
            && framing != Framing::UntilClose
            && !(status == StatusCode::NO_CONTENT && facts.announces_body())
            && status != StatusCode::SWITCHING_PROTOCOLS;
        Ok(Some(Self { status, len, fields: fields_of(bytes, len), framing, keeps_alive }))
    }

    /// Whether a final response follows. After 101 there is no HTTP any more, so it is final.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// The part of a head after its status line. (Empty lines before that one are allowed: RFC 9112, section 2.2.)
fn fields_of(bytes: &[u8], len: usize) -> Range<usize> {
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(len);
    let line = bytes[begin..len].iter().position(|byte| *byte == b'\n').map_or(len, |end| begin + end + 1);
    line..len
}

/// What the fields say about framing and connection.
#[derive(Debug, Default)]
struct Facts {
    length: Option<u64>,
    /// There is a second length, even if it is the same.
    repeats_length: bool,
    /// Whether the last coding is `chunked`.
    is_chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
}

impl Facts {
    fn gather(fields: &[httparse::Header<'_>]) -> Result<Self, DecodeError> {
        let mut facts = Self::default();
        for field in fields {
            if field.name.eq_ignore_ascii_case("content-length") {
                facts.add_length(field.value)?;
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                let last = elements(field.value).last().unwrap_or_default();
                facts.is_chunked = Some(last.eq_ignore_ascii_case(b"chunked"));
            } else if field.name.eq_ignore_ascii_case("connection") {
                for option in elements(field.value) {
                    facts.close |= option.eq_ignore_ascii_case(b"close");
                    facts.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(facts)
    }

    /// A list of equal lengths is one length (RFC 9110, section 8.6).
    fn add_length(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        for element in elements(value) {
            let length = decimal(element).ok_or(DecodeError::ContentLength)?;
            self.repeats_length |= self.length.is_some();
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err(DecodeError::ContentLength);
            }
        }
        Ok(())
    }

    /// RFC 9112, section 6.3, in its order.
    fn framing(&self, status: StatusCode, is_http_1_1: bool) -> Result<Framing, DecodeError> {
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if status.is_informational() || has_none {
            return Ok(Framing::Empty);
        }
        match (self.is_chunked, self.length) {
            (Some(_), _) if !is_http_1_1 => Err(DecodeError::TransferEncoding),
            (Some(true), _) => Ok(Framing::Chunked),
            (Some(false), _) | (None, None) => Ok(Framing::UntilClose),
            (None, Some(length)) => Ok(Framing::Length(length)),
        }
    }

    /// With 204 it must not (RFC 9110, section 8.6; RFC 9112, section 6.1), and a server that does may send one.
    fn announces_body(&self) -> bool {
        self.is_chunked.is_some() || self.length.is_some_and(|length| length > 0)
    }

    /// RFC 9112, section 9.3. A server that frames its response twice is believed once: where the next response
    /// begins is in doubt (section 6.3, rule 3).
    fn keeps_alive(&self, is_http_1_1: bool) -> bool {
        let is_in_doubt = self.repeats_length || (self.is_chunked.is_some() && self.length.is_some());
        !is_in_doubt && !self.close && (is_http_1_1 || self.keep_alive)
    }
}

/// The elements of a list (RFC 9110, section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// `1*DIGIT`, and no sign as Rust would take it.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The field lines of a head, each as name and value.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Of lines that were checked.
    pub(super) fn new(lines: &'a [u8]) -> Self {
        Self(lines)
    }

    /// Of a head that was decoded from these bytes.
    pub fn in_head(bytes: &'a [u8], fields: &Range<usize>) -> Self {
        Self(bytes.get(fields.clone()).unwrap_or_default())
    }

    /// The first value of this name, whatever its case.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        let mut headers = self;
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = self.0.split_at(end + 1);
        let colon = line.iter().position(|byte| *byte == b':')?;
        self.0 = rest;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> Result<(Framing, bool), DecodeError> {
        parse_as("HTTP/1.1 200 OK", fields)
    }

    fn parse_as(status: &str, fields: &str) -> Result<(Framing, bool), DecodeError> {
        let head = Head::parse(format!("{status}\r\n{fields}\r\n").as_bytes())?.unwrap();
        Ok((head.framing, head.keeps_alive))
    }

    #[test]
    fn the_framing_is_found_as_the_rfc_says() {
        use Framing::{Chunked, Empty, Length, UntilClose};
        for (status, fields, expected) in [
            ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", (Length(5), true)),
            ("HTTP/1.1 200 OK", "content-length: 18446744073709551615\r\n", (Length(u64::MAX), true)),
            ("HTTP/1.1 200", "content-length: 0\r\nconnection: x, Close\r\n", (Length(0), false)),
            ("HTTP/1.1 200 OK", "", (UntilClose, false)),
            ("HTTP/1.1 200 OK", "transfer-encoding: gzip, Chunked\r\n", (Chunked, true)),
            ("HTTP/1.1 200 OK", "transfer-encoding: chunked, gzip\r\n", (UntilClose, false)),
            ("HTTP/1.1 200 OK", "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", (Chunked, true)),
            ("HTTP/1.1 204 No Content", "content-length: 0\r\n", (Empty, true)),
            ("HTTP/1.1 204 No Content", "content-length: 5\r\n", (Empty, false)),
            ("HTTP/1.1 204 No Content", "transfer-encoding: chunked\r\n", (Empty, false)),
            ("HTTP/1.1 304 Not Modified", "transfer-encoding: chunked\r\n", (Empty, true)),
            ("HTTP/1.1 101 Switching Protocols", "upgrade: x\r\n", (Empty, false)),
            ("HTTP/1.0 200 OK", "content-length: 5\r\n", (Length(5), false)),
            ("HTTP/1.0 200 OK", "content-length: 5\r\nconnection: Keep-Alive\r\n", (Length(5), true)),
        ] {
            assert_eq!(parse_as(status, fields), Ok(expected), "{status} {fields}");
        }
    }

    #[test]
    fn what_frames_a_body_twice_costs_the_connection_or_is_no_response() {
        use Framing::{Chunked, Length};
        assert_eq!(parse("content-length: 5\r\ntransfer-encoding: chunked\r\n"), Ok((Chunked, false)));
        assert_eq!(parse("content-length: 5\r\ncontent-length: 5\r\n"), Ok((Length(5), false)));
        assert_eq!(parse("content-length: 5, 5\r\n"), Ok((Length(5), false)));
        for value in ["5\r\ncontent-length: 6", "5, 6", "", "+5", "-5", "0x5", "5 5", "5,", "18446744073709551616"] {
            let expected = Err(DecodeError::ContentLength);
            assert_eq!(parse(&format!("content-length: {value}\r\n")), expected, "{value}");
        }
        let of_1_0 = parse_as("HTTP/1.0 200 OK", "transfer-encoding: chunked\r\n");
        assert_eq!(of_1_0, Err(DecodeError::TransferEncoding));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for (head, expected) in [
            ("220 smtp.example.com ESMTP\r\n", DecodeError::Head(httparse::Error::Version)),
            ("HTTP/2 200\r\n\r\n", DecodeError::Head(httparse::Error::Version)),
            ("HTTP/1.1 2x0 OK\r\n\r\n", DecodeError::Head(httparse::Error::Status)),
            ("HTTP/1.1 099 OK\r\n\r\n", DecodeError::Status),
            ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", DecodeError::Head(httparse::Error::HeaderName)),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", DecodeError::Head(httparse::Error::HeaderName)),
            ("HTTP/1.1 200 OK\r\na: \0\r\n\r\n", DecodeError::Head(httparse::Error::HeaderValue)),
        ] {
            assert_eq!(Head::parse(head.as_bytes()).unwrap_err(), expected, "{head}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(Head::parse(many.as_bytes()).unwrap_err(), DecodeError::Head(httparse::Error::TooManyHeaders));
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(Head::parse(long.as_bytes()).unwrap_err(), DecodeError::HeadTooLarge);
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let head = b"\r\n\r\nHTTP/1.1 200 OK\nRetry-After:\t7 \nx:\r\ny: a:b\r\n\r\nbody";
        let parsed = Head::parse(head).unwrap().unwrap();
        let headers = Headers::new(&head[parsed.fields]);
        let all: Vec<_> = headers.collect();
        assert_eq!(all, [(&b"Retry-After"[..], &b"7"[..]), (b"x", b""), (b"y", b"a:b")]);
        assert_eq!((headers.get("retry-after"), headers.get("z")), (Some(&b"7"[..]), None));
        assert_eq!(&head[parsed.len..], b"body");
    }
}
