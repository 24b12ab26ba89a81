//! What a client says.

use serde::Serialize;

use super::header::HeaderBlock;

/// The most bytes of a subject. nats-server takes control lines of 4 KiB (`max_control_line`).
pub const MAX_SUBJECT_BYTES: usize = 8 * 1024;

/// A text that cannot be a subject: empty, too long, or with white space or a control character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid subject")]
pub struct InvalidSubject;

/// A message to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Publish<'a> {
    /// Where to.
    pub subject: &'a str,
    /// Where an answer goes.
    pub reply: Option<&'a str>,
    /// The headers.
    pub headers: Option<&'a HeaderBlock>,
    /// Headers that this sending of the message has beyond those.
    pub more_headers: Option<&'a HeaderBlock>,
    /// The payload.
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// Bytes of headers and payload: what a server's `max_payload` limits.
    pub fn size(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    fn header_len(&self) -> usize {
        match (self.headers, self.more_headers) {
            (Some(block), None) | (None, Some(block)) => block.encoded_len(),
            (Some(block), Some(more)) => block.encoded_len() + more.lines().len(),
            (None, None) => 0,
        }
    }
}

/// The greeting of a client.
#[derive(Debug, Serialize)]
pub struct Connect<'a> {
    /// Whether the server says `+OK` to everything.
    pub verbose: bool,
    /// Whether the server checks subjects strictly.
    pub pedantic: bool,
    /// Whether the client insists on TLS.
    pub tls_required: bool,
    /// The connection's name.
    pub name: &'a str,
    /// The client's language.
    pub lang: &'a str,
    /// The client's version.
    pub version: &'a str,
    /// 1: the server may send INFO at any time.
    pub protocol: u8,
    /// Whether its own messages come back to it.
    pub echo: bool,
    /// Whether it knows headers.
    pub headers: bool,
    /// Whether requests without a subscriber are answered by status 503.
    pub no_responders: bool,
    /// The user's JWT.
    #[serde(rename = "jwt")]
    pub user_jwt: &'a str,
    /// The signature of the server's nonce, in base64 for URLs without padding.
    #[serde(rename = "sig")]
    pub signature: &'a str,
}

/// Whether a text can be a subject or a queue group.
pub fn is_subject(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_SUBJECT_BYTES && text.bytes().all(|byte| byte > b' ' && byte != 0x7F)
}

/// `CONNECT`.
///
/// # Errors
/// None for text and flags.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) -> Result<(), serde_json::Error> {
    let document = serde_json::to_vec(connect)?;
    write(out, &[b"CONNECT ", &document, b"\r\n"]);
    Ok(())
}

/// `PUB` or `HPUB`. All of it is written, or nothing.
///
/// # Errors
/// The subject or the reply subject cannot be one.
pub fn publish(out: &mut Vec<u8>, message: &Publish<'_>) -> Result<(), InvalidSubject> {
    let Publish { subject, reply, headers, more_headers, payload } = *message;
    if !is_subject(subject) || !reply.is_none_or(is_subject) {
        return Err(InvalidSubject);
    }
    let header_len = message.header_len();
    out.reserve(subject.len() + reply.map_or(0, str::len) + header_len + payload.len() + 64);
    write(out, &[if header_len > 0 { b"HPUB " } else { b"PUB " }, subject.as_bytes(), b" "]);
    if let Some(reply) = reply {
        write(out, &[reply.as_bytes(), b" "]);
    }
    if header_len > 0 {
        number(out, header_len);
        out.push(b' ');
    }
    number(out, header_len + payload.len());
    out.extend_from_slice(b"\r\n");
    if let Some(block) = headers.or(more_headers) {
        block.encode_with(headers.and(more_headers), out);
    }
    write(out, &[payload, b"\r\n"]);
    Ok(())
}

/// `SUB`.
///
/// # Errors
/// The subject or the queue group cannot be one.
pub fn subscribe(out: &mut Vec<u8>, subject: &str, group: Option<&str>, sid: u64) -> Result<(), InvalidSubject> {
    if !is_subject(subject) || !group.is_none_or(is_subject) {
        return Err(InvalidSubject);
    }
    write(out, &[b"SUB ", subject.as_bytes(), b" "]);
    if let Some(group) = group {
        write(out, &[group.as_bytes(), b" "]);
    }
    number(out, sid);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// `UNSUB`.
pub fn unsubscribe(out: &mut Vec<u8>, sid: u64) {
    out.extend_from_slice(b"UNSUB ");
    number(out, sid);
    out.extend_from_slice(b"\r\n");
}

/// `UNSUB` after so many messages.
pub fn unsubscribe_after(out: &mut Vec<u8>, sid: u64, messages: u64) {
    out.extend_from_slice(b"UNSUB ");
    number(out, sid);
    out.extend_from_slice(b" ");
    number(out, messages);
    out.extend_from_slice(b"\r\n");
}

/// `PING`.
pub fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// `PONG`.
pub fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use super::*;

    fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn commands_as_the_protocol_has_them() {
        let mut headers = HeaderBlock::new();
        headers.append("a", "b").unwrap();
        let message = Publish { subject: "x.y", payload: b"data", ..Publish::default() };
        assert_eq!(encoded(|out| publish(out, &message).unwrap()), "PUB x.y 4\r\ndata\r\n");
        let message = Publish { reply: Some("r"), ..message };
        assert_eq!(encoded(|out| publish(out, &message).unwrap()), "PUB x.y r 4\r\ndata\r\n");
        let message = Publish { headers: Some(&headers), ..message };
        let expected = "HPUB x.y r 18 22\r\nNATS/1.0\r\na: b\r\n\r\ndata\r\n";
        assert_eq!(encoded(|out| publish(out, &message).unwrap()), expected);
        let mut more = HeaderBlock::new();
        more.append("c", "").unwrap();
        let message = Publish { more_headers: Some(&more), ..message };
        assert_eq!(message.size(), 27);
        let expected = "HPUB x.y r 23 27\r\nNATS/1.0\r\na: b\r\nc: \r\n\r\ndata\r\n";
        assert_eq!(encoded(|out| publish(out, &message).unwrap()), expected);
        let message = Publish { headers: None, ..message };
        assert_eq!(
            encoded(|out| publish(out, &message).unwrap()),
            "HPUB x.y r 17 21\r\nNATS/1.0\r\nc: \r\n\r\ndata\r\n"
        );
        assert_eq!(encoded(|out| subscribe(out, "a.>", None, 7).unwrap()), "SUB a.> 7\r\n");
        assert_eq!(
            encoded(|out| subscribe(out, "a", Some("g"), u64::MAX).unwrap()),
            "SUB a g 18446744073709551615\r\n"
        );
        assert_eq!(encoded(|out| unsubscribe(out, 7)), "UNSUB 7\r\n");
        assert_eq!(encoded(|out| unsubscribe_after(out, 7, 1)), "UNSUB 7 1\r\n");
    }

    #[test]
    fn no_command_can_be_slipped_into_a_subject() {
        let long = "x".repeat(MAX_SUBJECT_BYTES + 1);
        for subject in ["", " ", "a b", "a\r\nPUB b 0", "a\t", "a\u{7f}", &long] {
            let out = &mut Vec::new();
            assert_eq!(publish(out, &Publish { subject, ..Publish::default() }), Err(InvalidSubject));
            let message = Publish { subject: "a", reply: Some(subject), ..Publish::default() };
            assert_eq!(publish(out, &message), Err(InvalidSubject));
            assert_eq!(subscribe(out, subject, None, 1), Err(InvalidSubject));
            assert_eq!(subscribe(out, "a", Some(subject), 1), Err(InvalidSubject));
            assert!(out.is_empty());
        }
    }
}
