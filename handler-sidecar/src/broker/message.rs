//! A message that carries an event: one that the broker lent to this process, or one of a Direct topic.
//!
//! It does nothing by itself. The runner has each of them in its table until it has told the broker what became of it;
//! what is in the table at the end is given back; and if even that cannot be sent, the broker takes it back after the
//! consumer's `ack_wait`.

use std::sync::atomic::{AtomicU32, Ordering};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use crate::broker::delivery_info::{self, DeliveryInfo};
use crate::ops::budget::{ByteBudget, Share};

/// A message, as it is stored.
#[derive(Debug)]
pub struct Message {
    reply: Option<Subject>,
    headers: Option<HeaderMap>,
    payload: Bytes,
    info: DeliveryInfo,
    deliveries: AtomicU32,
    /// The bytes it takes.
    share: Share,
}

impl Message {
    /// Takes an event of a pull's inbox, and its bytes from the budget; `None` if the broker's part of it is missing, so
    /// that it cannot be acknowledged.
    pub fn lent(message: async_nats::Message, budget: &ByteBudget) -> Option<Self> {
        let info = delivery_info::parse(message.reply.as_ref()?)?;
        Some(Self::new(message, info, budget))
    }

    /// Takes an event that is not stored.
    pub fn direct(mut message: async_nats::Message, budget: &ByteBudget) -> Self {
        message.reply = None;
        Self::new(message, DeliveryInfo { deliveries: 1, sequence: 0, number: 0 }, budget)
    }

    fn new(message: async_nats::Message, info: DeliveryInfo, budget: &ByteBudget) -> Self {
        let async_nats::Message { reply, headers, payload, length, .. } = message;
        let deliveries = AtomicU32::new(info.deliveries);
        Self { reply, headers, payload, info, deliveries, share: budget.share(length) }
    }

    /// The stored headers.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.headers.as_ref()
    }

    /// The stored payload (a reference to it, not a copy).
    pub fn payload(&self) -> Bytes {
        self.payload.clone()
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
    pub fn acknowledgement(&self) -> Option<&Subject> {
        self.reply.as_ref()
    }

    /// It is taken up again without having gone back: as if it had been delivered once more, so that what is on record
    /// of it is read.
    pub fn stays(&self) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }
}
