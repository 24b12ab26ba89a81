//! What is asked of the broker about parked keys, and what it answers. Pure.
//!
//! What the stream of retries is asked its leader answers (STREAM.INFO, STREAM.MSG.GET; a direct get may be answered by
//! a follower): that nothing is parked must be true, and what was removed must not come again.

use serde::Serialize;
use tidegate_wire::nats::{HeaderBlock, Publish};

pub mod copies;
pub mod lease;
pub mod list;
pub mod mark;
#[cfg(test)]
mod tests;

/// JetStream's codes for "no message found" and "stream not found": nothing is parked.
const NOTHING: [u64; 2] = [10_037, 10_059];

/// The header of a message that is stored only if the last one of its subject has this sequence.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// A message that replaces another one of its subject, or the lack of one, by comparison.
#[derive(Debug)]
pub struct Replacement {
    headers: HeaderBlock,
    body: Vec<u8>,
}

impl Replacement {
    /// Of the message with this sequence; 0: where there is none. `None`: it cannot be written, which is not known to
    /// happen.
    fn new(over: u64, body: &impl Serialize) -> Option<Self> {
        let mut headers = HeaderBlock::new();
        headers.append(EXPECTED, &over.to_string()).ok()?;
        Some(Self { headers, body: serde_json::to_vec(body).ok()? })
    }

    /// The message.
    pub fn message<'a>(&'a self, subject: &'a str) -> Publish<'a> {
        Publish { subject, headers: Some(&self.headers), payload: &self.body, ..Publish::default() }
    }
}
