//! What a client knows of a subscription.

use std::sync::Arc;

use super::queue::Queue;
use crate::nats::encode::{self, InvalidSubject};

/// When a subscription ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It does not: it is renewed on each connection.
    Never,
    /// With its first message.
    FirstMessage,
    /// With the connection.
    Disconnect,
}

/// A subscription.
pub(super) struct Subscription {
    pub(super) subject: String,
    group: Option<String>,
    pub(super) end: End,
    pub(super) queue: Arc<Queue>,
}

impl Subscription {
    pub(super) fn new(subject: &str, group: Option<&str>, end: End, queue: Arc<Queue>) -> Self {
        Self { subject: subject.to_owned(), group: group.map(str::to_owned), end, queue }
    }

    /// Appends what the server is told.
    pub(super) fn encode(&self, out: &mut Vec<u8>, sid: u64) -> Result<(), InvalidSubject> {
        encode::subscribe(out, &self.subject, self.group.as_deref(), sid)?;
        if self.end == End::FirstMessage {
            encode::unsubscribe_after(out, sid, 1);
        }
        Ok(())
    }
}
