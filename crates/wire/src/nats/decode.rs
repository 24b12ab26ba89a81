//! What a server says, taken from the bytes that arrive.
//!
//! The decoder owns the buffer that is read into. A control line waits there until it is whole; a message gets memory
//! of its own, of exactly its size, so that one that is kept for long keeps nothing else.

use serde::Deserialize;

use super::encode::MAX_SUBJECT_BYTES;
use super::message::{Lengths, Message};

/// The longest control line. The longest that a server sends is INFO, with the addresses of its whole cluster.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// The most bytes that are kept of an error's text.
const MAX_ERROR_BYTES: usize = 512;
/// A read has at least so much room.
const MIN_READ: usize = 16 * 1024;

/// What no NATS server says, or more than a client takes: the connection is to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line is longer than [`MAX_LINE_BYTES`].
    #[error("a control line is longer than 64 KiB")]
    LineTooLong,
    /// A line does not end with CR LF.
    #[error("a control line does not end with CR LF")]
    LineEnd,
    /// A line is none of the protocol.
    #[error("an unknown control line")]
    Unknown,
    /// INFO is not the document that it should be.
    #[error("an INFO that cannot be read")]
    Info,
    /// A message's line has too few or too many parts, or a number that is none.
    #[error("a message's control line that cannot be read")]
    MessageLine,
    /// A message's subject is longer than [`MAX_SUBJECT_BYTES`].
    #[error("a subject is longer than 8 KiB")]
    SubjectTooLong,
    /// A message is larger than the client takes.
    #[error("a message is larger than is taken")]
    MessageTooLarge,
    /// A message does not end where it should.
    #[error("a message does not end where its length says")]
    MessageEnd,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// The server's name.
    pub server_name: String,
    /// The most bytes of headers and payload that it takes.
    pub max_payload: usize,
    /// What a client signs to show who it is.
    pub nonce: String,
    /// Whether it is about to end and wants its clients to go.
    #[serde(rename = "ldm")]
    pub is_lame_duck: bool,
}

/// Something that a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerOp {
    /// `INFO`
    Info(Box<ServerInfo>),
    /// `MSG` or `HMSG`, with the number of the subscription.
    Message(u64, Message),
    /// `PING`
    Ping,
    /// `PONG`
    Pong,
    /// `+OK`
    Ok,
    /// `-ERR`, with what it says.
    Error(String),
}

/// Makes [`ServerOp`]s of bytes, however they are split.
#[derive(Debug)]
pub struct Decoder {
    max_message: usize,
    block: Box<[u8]>,
    /// What was read and not looked at is in `block[start..end]`, ...
    start: usize,
    end: usize,
    /// ... and its first so many bytes have no end of a line.
    searched: usize,
    body: Option<Body>,
}

/// A message of which not everything is there.
#[derive(Debug)]
struct Body {
    sid: u64,
    lengths: Lengths,
    raw: Vec<u8>,
    filled: usize,
}

impl Decoder {
    /// A decoder for a connection that takes messages of at most so many bytes, headers included.
    pub fn new(max_message: usize) -> Self {
        let block = vec![0; MAX_LINE_BYTES].into_boxed_slice();
        Self { max_message, block, start: 0, end: 0, searched: 0, body: None }
    }

    /// Where to read into; never empty after [`Self::decode`] returned `None`.
    pub fn space(&mut self) -> &mut [u8] {
        if let Some(body) = &mut self.body
            && body.filled < body.raw.len()
        {
            return &mut body.raw[body.filled..];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.block.len() - self.end < MIN_READ {
            self.block.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.block[self.end..]
    }

    /// So many bytes were read into [`Self::space`].
    pub fn advance(&mut self, read: usize) {
        match &mut self.body {
            Some(body) if body.filled < body.raw.len() => body.filled = (body.filled + read).min(body.raw.len()),
            _ => self.end = (self.end + read).min(self.block.len()),
        }
    }

    /// Whether everything that was read was also taken.
    pub fn is_empty(&self) -> bool {
        self.start == self.end && self.body.is_none()
    }

    /// The next thing that was said; `None`: more has to be read.
    ///
    /// # Errors
    /// It is nothing that a NATS server says. Nothing that follows can be understood.
    pub fn decode(&mut self) -> Result<Option<ServerOp>, ProtocolError> {
        if self.body.is_some() {
            return self.complete();
        }
        let pending = &self.block[self.start..self.end];
        let window = &pending[..pending.len().min(MAX_LINE_BYTES)];
        let Some(at) = memchr::memchr(b'\n', &window[self.searched..]) else {
            self.searched = window.len();
            return if window.len() < MAX_LINE_BYTES { Ok(None) } else { Err(ProtocolError::LineTooLong) };
        };
        let len = self.searched + at;
        self.searched = 0;
        let line = window[..len].strip_suffix(b"\r").ok_or(ProtocolError::LineEnd)?;
        let op = match parse_line(line)? {
            Line::Op(op) => op,
            Line::Message(head) => return self.begin(head.owned(self.max_message)?, len + 1),
        };
        self.start += len + 1;
        Ok(Some(op))
    }

    /// Takes up the message whose line has so many bytes.
    fn begin(&mut self, head: OwnedHead, line_len: usize) -> Result<Option<ServerOp>, ProtocolError> {
        let OwnedHead { sid, lengths, mut raw } = head;
        self.start += line_len;
        let there = &self.block[self.start..self.end];
        if there.len() >= lengths.body + 2 {
            raw.extend_from_slice(&there[..lengths.body]);
            check_end(&there[lengths.body..])?;
            self.start += lengths.body + 2;
            return Ok(Some(ServerOp::Message(sid, Message::of_raw(raw, lengths))));
        }
        let filled = raw.len();
        raw.resize(filled + lengths.body, 0);
        self.body = Some(Body { sid, lengths, raw, filled });
        self.complete()
    }

    /// Completes the message that was begun.
    fn complete(&mut self) -> Result<Option<ServerOp>, ProtocolError> {
        let Some(mut body) = self.body.take() else { return Ok(None) };
        let there = &self.block[self.start..self.end];
        let taken = there.len().min(body.raw.len() - body.filled);
        body.raw[body.filled..body.filled + taken].copy_from_slice(&there[..taken]);
        body.filled += taken;
        self.start += taken;
        if body.filled < body.raw.len() || self.end - self.start < 2 {
            self.body = Some(body);
            return Ok(None);
        }
        check_end(&self.block[self.start..self.end])?;
        self.start += 2;
        Ok(Some(ServerOp::Message(body.sid, Message::of_raw(body.raw, body.lengths))))
    }
}

fn check_end(rest: &[u8]) -> Result<(), ProtocolError> {
    if rest.starts_with(b"\r\n") { Ok(()) } else { Err(ProtocolError::MessageEnd) }
}

enum Line<'a> {
    Op(ServerOp),
    Message(Head<'a>),
}

/// The control line of a message.
struct Head<'a> {
    subject: &'a [u8],
    sid: u64,
    reply: &'a [u8],
    headers: Option<usize>,
    body: usize,
}

struct OwnedHead {
    sid: u64,
    lengths: Lengths,
    /// The subjects, with room for the rest.
    raw: Vec<u8>,
}

impl Head<'_> {
    /// Checks the lengths, and only then reserves memory for them.
    fn owned(&self, max_message: usize) -> Result<OwnedHead, ProtocolError> {
        let Self { subject, sid, reply, headers, body } = *self;
        if subject.len() > MAX_SUBJECT_BYTES || reply.len() > MAX_SUBJECT_BYTES {
            return Err(ProtocolError::SubjectTooLong);
        }
        if body > max_message {
            return Err(ProtocolError::MessageTooLarge);
        }
        if headers.is_some_and(|headers| headers > body) {
            return Err(ProtocolError::MessageLine);
        }
        let mut raw = Vec::with_capacity(subject.len() + reply.len() + body);
        raw.extend_from_slice(subject);
        raw.extend_from_slice(reply);
        let lengths = Lengths { subject: subject.len(), reply: reply.len(), headers, body };
        Ok(OwnedHead { sid, lengths, raw })
    }
}

fn parse_line(line: &[u8]) -> Result<Line<'_>, ProtocolError> {
    let (name, rest) = line.split_at(line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len()));
    let op = match name {
        b"MSG" => return message_head(rest, false).map(Line::Message),
        b"HMSG" => return message_head(rest, true).map(Line::Message),
        b"PING" => ServerOp::Ping,
        b"PONG" => ServerOp::Pong,
        b"+OK" => ServerOp::Ok,
        b"-ERR" => ServerOp::Error(error_text(rest)),
        b"INFO" => ServerOp::Info(Box::new(serde_json::from_slice(rest).map_err(|_| ProtocolError::Info)?)),
        _ => return Err(ProtocolError::Unknown),
    };
    Ok(Line::Op(op))
}

fn message_head(rest: &[u8], has_headers: bool) -> Result<Head<'_>, ProtocolError> {
    let mut parts = [&b""[..]; 5];
    let mut count = 0;
    for part in rest.split(|byte| is_blank(*byte)).filter(|part| !part.is_empty()) {
        *parts.get_mut(count).ok_or(ProtocolError::MessageLine)? = part;
        count += 1;
    }
    let (subject, sid, reply, headers, body) = match (has_headers, &parts[..count]) {
        (false, [subject, sid, body]) => (*subject, *sid, &b""[..], None, *body),
        (false, [subject, sid, reply, body]) => (*subject, *sid, *reply, None, *body),
        (true, [subject, sid, headers, body]) => (*subject, *sid, &b""[..], Some(*headers), *body),
        (true, [subject, sid, reply, headers, body]) => (*subject, *sid, *reply, Some(*headers), *body),
        _ => return Err(ProtocolError::MessageLine),
    };
    let sid = number(sid).ok_or(ProtocolError::MessageLine)?;
    let headers = headers.map(|headers| length(headers).ok_or(ProtocolError::MessageLine)).transpose()?;
    Ok(Head { subject, sid, reply, headers, body: length(body).ok_or(ProtocolError::MessageLine)? })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A number of decimal digits and nothing else; `None` also if it is too large.
fn number(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |number: u64, byte: &u8| number.checked_mul(10)?.checked_add(digit(byte)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

fn length(digits: &[u8]) -> Option<usize> {
    usize::try_from(number(digits)?).ok()
}

/// The text of an error, in one visible line.
fn error_text(rest: &[u8]) -> String {
    let text = String::from_utf8_lossy(&rest[..rest.len().min(MAX_ERROR_BYTES)]);
    let text = text.trim().trim_matches('\'');
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
