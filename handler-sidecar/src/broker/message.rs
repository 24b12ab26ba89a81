//! A message that carries an event: one that the broker lent to this process, of the topic or of the retry shelf, or one
//! of a Direct topic.
//!
//! It does nothing by itself. The runner has each of them in its table until it has told the broker what became of it;
//! what is in the table at the end is given back; and if even that cannot be sent, the broker takes it back after the
//! consumer's `ack_wait`.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tidegate_wire::nats::{self, Headers};

use crate::broker::delivery_info::{self, DeliveryInfo};
use crate::ops::budget::{ByteBudget, Share};
use crate::settle::shelf::Shelved;

/// Where a message comes from.
#[derive(Debug)]
enum Origin {
    /// The topic's stream.
    Topic,
    /// The retry shelf. What its copy says of the event; `None`: no sidecar wrote it.
    Shelf(Option<Box<Shelved>>),
    /// A publisher, over nothing that keeps it.
    Direct,
}

/// A message, as it is stored.
#[derive(Debug)]
pub struct Message {
    stored: nats::Message,
    origin: Origin,
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
        Some(Self::new(message, Origin::Topic, info, budget))
    }

    /// The same of the inbox of a pull from the retry shelf. It has the sequence of the event in the topic, and counts
    /// deliveries on from those that were on record there: the first one from the shelf is the one that put it there.
    pub fn shelved(message: nats::Message, budget: &ByteBudget) -> Option<Self> {
        let mut info = delivery_info::parse(message.reply()?)?;
        let copy = message.headers().and_then(Shelved::read).map(Box::new);
        if let Some(copy) = &copy {
            let before = copy.record.deliveries().saturating_sub(1);
            info = DeliveryInfo { deliveries: info.deliveries.saturating_add(before), sequence: copy.sequence, ..info };
        }
        Some(Self::new(message, Origin::Shelf(copy), info, budget))
    }

    /// Takes an event that is not stored.
    pub fn direct(message: nats::Message, budget: &ByteBudget) -> Self {
        Self::new(message, Origin::Direct, DeliveryInfo { deliveries: 1, sequence: 0, number: 0 }, budget)
    }

    fn new(stored: nats::Message, origin: Origin, info: DeliveryInfo, budget: &ByteBudget) -> Self {
        let (deliveries, share) = (AtomicU32::new(info.deliveries), budget.share(stored.size()));
        Self { stored, origin, info, deliveries, share }
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

    /// The number of this delivery; the first is 1. It also counts deliveries that led to no attempt.
    pub fn deliveries(&self) -> u32 {
        self.deliveries.load(Ordering::Relaxed)
    }

    /// Whether nothing was heard of the event before.
    pub fn is_first(&self) -> bool {
        !self.is_of_the_shelf() && self.deliveries() <= 1
    }

    /// Whether it comes of the retry shelf.
    pub fn is_of_the_shelf(&self) -> bool {
        matches!(self.origin, Origin::Shelf(_))
    }

    /// What the copy on the shelf says of the event.
    pub fn copy(&self) -> Option<&Shelved> {
        match &self.origin {
            Origin::Shelf(copy) => copy.as_deref(),
            Origin::Topic | Origin::Direct => None,
        }
    }

    /// How often the shelf delivered it; the first is 1.
    pub fn shelf_deliveries(&self) -> u32 {
        let before = self.copy().map_or(0, |copy| copy.record.deliveries().saturating_sub(1));
        self.deliveries().saturating_sub(before)
    }

    /// The event's sequence in the topic's stream; 0 if it is not stored.
    pub fn sequence(&self) -> u64 {
        self.info.sequence
    }

    /// The consumer's number of this delivery, over all events.
    pub fn number(&self) -> u64 {
        self.info.number
    }

    /// Where the broker is told what became of it; `None` if it is not stored.
    pub fn acknowledgement(&self) -> Option<&str> {
        self.stored.reply().filter(|_| !matches!(self.origin, Origin::Direct))
    }

    /// It is taken up again without having gone back: as if it had been delivered once more, so that what is on record
    /// of it is read.
    pub fn stays(&self) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }
}
