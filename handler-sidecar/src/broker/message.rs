//! A message that carries an event: one that the broker lent to this process, or one of a Direct topic.
//!
//! It does nothing by itself. The runner has each of them in its table until it has told the broker what became of it;
//! what is in the table at the end is given back; and if even that cannot be sent, the broker takes it back after the
//! consumer's `ack_wait`.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tidegate_wire::nats::{self, Headers};

use crate::broker::delivery_info::{self, DeliveryInfo};
use crate::ops::budget::{ByteBudget, Share};

/// A message, as it is stored.
#[derive(Debug)]
pub struct Message {
    stored: nats::Message,
    is_lent: bool,
    info: DeliveryInfo,
    deliveries: AtomicU32,
    /// The bytes it takes.
    share: Share,
}

impl Message {
    /// Takes an event of a pull's inbox, and its bytes from the budget; `None` if the broker's part of it is missing, so
    /// that it cannot be acknowledged.
    pub fn lent(message: nats::Message, budget: &ByteBudget) -> Option<Self> {
        let info = delivery_info::parse(message.reply()?)?;
        Some(Self::new(message, true, info, budget))
    }

    /// Takes an event that is not stored.
    pub fn direct(message: nats::Message, budget: &ByteBudget) -> Self {
        Self::new(message, false, DeliveryInfo { deliveries: 1, sequence: 0, number: 0 }, budget)
    }

    fn new(stored: nats::Message, is_lent: bool, info: DeliveryInfo, budget: &ByteBudget) -> Self {
        let (deliveries, share) = (AtomicU32::new(info.deliveries), budget.share(stored.size()));
        Self { stored, is_lent, info, deliveries, share }
    }

    /// The message as it came.
    pub fn stored(&self) -> &nats::Message {
        &self.stored
    }

    /// The stored headers, if they can be read.
    pub fn headers(&self) -> Option<Headers<'_>> {
        self.stored.headers()
    }

    /// The stored payload (a reference to it, not a copy).
    pub fn payload(&self) -> Bytes {
        self.stored.payload_bytes()
    }

    /// The bytes it takes.
    pub fn bytes(&self) -> usize {
        self.share.bytes()
    }

    /// The broker's number of this delivery; the first is 1. It also counts deliveries that led to no attempt.
    pub fn deliveries(&self) -> u32 {
        self.deliveries.load(Ordering::Relaxed)
    }

    /// The event's sequence in the stream; 0 if it is not stored.
    pub fn sequence(&self) -> u64 {
        self.info.sequence
    }

    /// The consumer's number of this delivery, over all events.
    pub fn number(&self) -> u64 {
        self.info.number
    }

    /// Where the broker is told what became of it; `None` if it is not stored.
    pub fn acknowledgement(&self) -> Option<&str> {
        self.stored.reply().filter(|_| self.is_lent)
    }

    /// It is taken up again without having gone back: as if it had been delivered once more, so that what is on record
    /// of it is read.
    pub fn stays(&self) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }
}
