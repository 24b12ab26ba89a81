//! A message as it came, in one allocation of exactly its size.

use bytes::Bytes;

use super::encode::{InvalidSubject, is_subject};
use super::header::{self, HeaderBlock, HeaderError, Headers};

/// What is wrong with a message. It was written by its publisher, so it says nothing about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The headers cannot be read.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// The subject or the reply subject is not UTF-8.
    #[error("a subject is not UTF-8")]
    Subject,
}

/// A message of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Subject, reply subject, header block and payload, one after the other.
    raw: Bytes,
    reply_at: usize,
    headers_at: usize,
    payload_at: usize,
    status: Option<u16>,
    malformed: Option<Malformed>,
}

/// How long the parts of a message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) subject: usize,
    pub(super) reply: usize,
    /// `None`: the message came without a header block.
    pub(super) headers: Option<usize>,
    /// Header block and payload together.
    pub(super) body: usize,
}

impl Message {
    /// The message in these bytes, whose lengths are known to fit.
    pub(super) fn of_raw(mut raw: Vec<u8>, lengths: Lengths) -> Self {
        let (reply_at, headers_at) = (lengths.subject, lengths.subject + lengths.reply);
        let payload_at = headers_at + lengths.headers.unwrap_or(0);
        let (mut status, mut malformed) = (None, None);
        if lengths.headers.is_some() {
            match header::check(&raw[headers_at..payload_at]) {
                Ok(found) => status = found,
                Err(error) => malformed = Some(Malformed::Headers(error)),
            }
        }
        for range in [0..reply_at, reply_at..headers_at] {
            let subject = &mut raw[range];
            if std::str::from_utf8(subject).is_err() {
                malformed = Some(Malformed::Subject);
                subject.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
            }
        }
        Self { raw: raw.into(), reply_at, headers_at, payload_at, status, malformed }
    }

    /// A message that did not come over a connection.
    ///
    /// # Errors
    /// A subject cannot be one.
    pub fn compose(
        subject: &str,
        reply: Option<&str>,
        headers: Option<&HeaderBlock>,
        payload: &[u8],
    ) -> Result<Self, InvalidSubject> {
        if !is_subject(subject) || !reply.is_none_or(is_subject) {
            return Err(InvalidSubject);
        }
        let reply = reply.unwrap_or_default();
        let mut raw = [subject.as_bytes(), reply.as_bytes()].concat();
        if let Some(headers) = headers {
            headers.encode(&mut raw);
        }
        raw.extend_from_slice(payload);
        let body = raw.len() - subject.len() - reply.len();
        let headers = headers.map(HeaderBlock::encoded_len);
        Ok(Self::of_raw(raw, Lengths { subject: subject.len(), reply: reply.len(), headers, body }))
    }

    /// The subject it was published to.
    pub fn subject(&self) -> &str {
        self.text(0, self.reply_at)
    }

    /// Where an answer goes.
    pub fn reply(&self) -> Option<&str> {
        Some(self.text(self.reply_at, self.headers_at)).filter(|reply| !reply.is_empty())
    }

    /// The headers; `None` if it has none that can be read.
    pub fn headers(&self) -> Option<Headers<'_>> {
        let block = self.raw.get(self.headers_at..self.payload_at)?;
        (self.malformed.is_none() && !block.is_empty()).then(|| Headers::of_checked(block))
    }

    /// The header block as it came, whether or not it can be read; empty if there is none.
    pub fn header_block(&self) -> &[u8] {
        self.raw.get(self.headers_at..self.payload_at).unwrap_or_default()
    }

    /// The status by which a server answers in place of a subscriber, as 503 (no responders).
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The text that goes with the status.
    pub fn description(&self) -> Option<&str> {
        self.headers()?.description()
    }

    /// What is wrong with it.
    pub fn malformed(&self) -> Option<Malformed> {
        self.malformed
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.raw.get(self.payload_at..).unwrap_or_default()
    }

    /// The payload as a reference to the message's bytes, which live as long as it does.
    pub fn payload_bytes(&self) -> Bytes {
        self.raw.slice(self.payload_at.min(self.raw.len())..)
    }

    /// Bytes in memory: subjects, headers and payload.
    pub fn size(&self) -> usize {
        self.raw.len()
    }

    fn text(&self, from: usize, to: usize) -> &str {
        self.raw.get(from..to).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}
