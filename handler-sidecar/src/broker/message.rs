//! A message that carries an event: one that the broker lent to this process, of the topic or of the retry shelf, or
//! one of a Direct topic.
//!
//! It does nothing by itself. The runner has each of them in its table until it has told the broker what became of it;
//! what is in the table at the end is given back; and if even that cannot be sent, the broker takes it back after the
//! consumer's `ack_wait`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_broker_client::contract::OnExhausted;
use tidegate_broker_client::delivery_info::{self, DeliveryInfo};
use tidegate_wire::nats::{self, Headers};

use crate::ops::budget::{ByteBudget, Share};
use crate::settle::attempts::Record;
use crate::settle::attempts::store::EventName;
use crate::settle::outcome::Reason;
use crate::settle::shelf::Shelved;

/// Where a message comes from.
#[derive(Debug)]
enum Origin {
    /// The topic's stream.
    Topic,
    /// The retry shelf. What its copy says of the event; `None`: no sidecar wrote it.
    Shelf(Option<Box<Shelved>>),
    /// The retry shelf, where it is parked. Whether a former owner of its lane may have begun an attempt.
    Parked(Option<Box<Shelved>>, bool),
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
    /// What its last attempt here put on record.
    noted: Mutex<Option<Box<Noted>>>,
    /// The span of its attempt says what became of it.
    is_concluded: AtomicBool,
    /// The bytes it takes.
    share: Share,
}

/// What an attempt put on record.
#[derive(Debug)]
struct Noted {
    record: Record,
    /// Why its key is to be held, if it is.
    held_for: Option<Reason>,
}

impl Message {
    /// Takes an event of a pull's inbox, and its bytes from the budget; `None` if the broker's part of it is missing,
    /// so that it cannot be acknowledged.
    pub fn lent(message: nats::Message, budget: &ByteBudget) -> Option<Self> {
        let info = delivery_info::parse(message.reply()?)?;
        Some(Self::new(message, Origin::Topic, info, budget))
    }

    /// The same of the inbox of a pull from the retry shelf. It has the sequence of the event in the topic, that on
    /// the shelf for a number, and counts
    /// deliveries on from those that were on record there: the first one from the shelf is the one that put it there.
    pub fn shelved(message: nats::Message, budget: &ByteBudget) -> Option<Self> {
        let lent = delivery_info::parse(message.reply()?)?;
        let mut info = DeliveryInfo { number: lent.sequence, ..lent };
        let copy = message.headers().and_then(Shelved::read).map(Box::new);
        if let Some(copy) = &copy {
            let before = copy.record.deliveries().saturating_sub(1);
            info = DeliveryInfo { deliveries: info.deliveries.saturating_add(before), sequence: copy.sequence, ..info };
        }
        Some(Self::new(message, Origin::Shelf(copy), info, budget))
    }

    /// Takes a parked event, which was read from this place of the retry shelf. `again`: whether a former owner of its
    /// lane may have begun an attempt.
    pub fn parked(message: nats::Message, place: u64, again: bool, budget: &ByteBudget) -> Self {
        let copy = message.headers().and_then(Shelved::read).map(Box::new);
        let (sequence, stored) = copy.as_ref().map_or((0, 0), |copy| (copy.sequence, copy.published_at));
        let info = DeliveryInfo { deliveries: 1, sequence, number: place, stored };
        Self::new(message, Origin::Parked(copy, again), info, budget)
    }

    /// Takes an event that is not stored.
    pub fn direct(message: nats::Message, budget: &ByteBudget) -> Self {
        Self::new(message, Origin::Direct, DeliveryInfo { deliveries: 1, sequence: 0, number: 0, stored: 0 }, budget)
    }

    fn new(stored: nats::Message, origin: Origin, info: DeliveryInfo, budget: &ByteBudget) -> Self {
        let (deliveries, share) = (AtomicU32::new(info.deliveries), budget.share(stored.size()));
        let is_concluded = AtomicBool::new(false);
        Self { stored, origin, info, deliveries, noted: Mutex::default(), is_concluded, share }
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
        matches!(self.origin, Origin::Shelf(_) | Origin::Parked(..))
    }

    /// Whether it is read from the shelf by its key, as often as it is due, and no one counts how often.
    pub fn is_parked(&self) -> bool {
        matches!(self.origin, Origin::Parked(..))
    }

    /// What the copy on the shelf says of the event.
    pub fn copy(&self) -> Option<&Shelved> {
        match &self.origin {
            Origin::Shelf(copy) | Origin::Parked(copy, _) => copy.as_deref(),
            Origin::Topic | Origin::Direct => None,
        }
    }

    /// When the topic stored the event, wherever it came from, by the broker's clock: nanoseconds since 1970. 0 if it
    /// is not stored.
    pub fn published_at(&self) -> u64 {
        self.copy().map_or(self.info.stored, |copy| copy.published_at)
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

    /// What the record of its attempts knows it by.
    pub fn name(&self) -> EventName {
        EventName { sequence: self.sequence(), published_at: self.published_at() }
    }

    /// The consumer's number of this delivery, over all events; of an event of the shelf its place there.
    pub fn number(&self) -> u64 {
        self.info.number
    }

    /// Whether the broker keeps it until it hears what became of it.
    pub fn is_stored(&self) -> bool {
        !matches!(self.origin, Origin::Direct)
    }

    /// Where the broker is told what became of it; `None` if it is not stored.
    pub fn acknowledgement(&self) -> Option<&str> {
        self.stored.reply().filter(|_| self.is_stored())
    }

    /// The broker does not count how often a parked event is read: this attempt comes after all that are on record.
    pub fn follows(&self, recorded: u32) {
        if self.is_parked() {
            self.deliveries.fetch_max(recorded.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Whether its attempt is to be put on record before it begins, because there is no other trace of it if it has no
    /// end: of a parked event that a former owner may have begun. (Where an owner works on, its events leave traces.)
    pub fn leaves_no_trace(&self) -> bool {
        matches!(self.origin, Origin::Parked(_, true))
    }

    /// Notes what is on record of it now, and why its key is to be held, if it is.
    pub fn note(&self, record: &Record, held_for: Option<Reason>) {
        *self.noted() = Some(Box::new(Noted { record: record.clone(), held_for }));
    }

    /// Why its key is to be held, if it is.
    pub fn held_for(&self) -> Option<Reason> {
        self.noted().as_ref()?.held_for
    }

    /// What its copy on the shelf says of its attempts: what its last one here put on record, because a record in the
    /// stream of attempts lives for a day. A key that is held may wait longer; to be attempted once it is released, its
    /// event has attempts left by what is on the copy.
    pub fn record_for_copy(&self, on_exhausted: OnExhausted) -> Record {
        let record = self.noted().as_ref().map(|noted| noted.record.clone()).unwrap_or_default();
        match on_exhausted {
            OnExhausted::DeadLetter => record,
            OnExhausted::Park => record.uncounted(),
        }
    }

    fn noted(&self) -> MutexGuard<'_, Option<Box<Noted>>> {
        // A poisoned one is whole: nothing panics while it is replaced.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The span of its attempt says what became of it.
    pub fn note_concluded(&self) {
        self.is_concluded.store(true, Ordering::Relaxed);
    }

    /// Whether the span of its attempt says what became of it.
    pub fn is_concluded(&self) -> bool {
        self.is_concluded.load(Ordering::Relaxed)
    }

    /// It is taken up again without having gone back: as if it had been delivered once more, so that what is on record
    /// of it is read.
    pub fn stays(&self) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::nats::HeaderBlock;

    use super::*;

    fn shelved(headers: &[(&str, &str)], reply: &str) -> Option<Message> {
        let mut block = HeaderBlock::new();
        headers.iter().try_for_each(|(name, value)| block.append(name, value)).unwrap();
        let message = nats::Message::compose("retries.billing.waiting", Some(reply), Some(&block), b"{}").unwrap();
        Message::shelved(message, &ByteBudget::default())
    }

    fn reply(deliveries: u32) -> String {
        format!("$JS.ACK.retries_billing.billing.{deliveries}.5.9.1700000000000000000.3")
    }

    const PUBLISHED: (&str, &str) = ("Tidegate-Published-At", "1600000000000000000");

    #[test]
    fn deliveries_of_the_shelf_follow_those_on_record() {
        let record = r#"{"handler":"u","deliveries":4,"attempts":2,"untried":1,"failed":[]}"#;
        for (deliveries, expected) in [(1, 4), (2, 5), (9, 12), (u32::MAX, u32::MAX)] {
            let headers = [("Tidegate-Sequence", "41"), PUBLISHED, ("Tidegate-Record", record)];
            let message = shelved(&headers, &reply(deliveries)).unwrap();
            assert_eq!((message.sequence(), message.number(), message.deliveries()), (41, 5, expected));
            assert_eq!(message.published_at(), 1_600_000_000_000_000_000, "not when it was put there");
            assert!(!message.is_first());
            let of_the_shelf = if deliveries == u32::MAX { u32::MAX - 3 } else { deliveries };
            assert_eq!(message.shelf_deliveries(), of_the_shelf);
        }
        let none = serde_json::to_string(&crate::settle::attempts::Record::default()).unwrap();
        // Of an event that was put there before there was anything on record.
        let headers = [("Tidegate-Sequence", "41"), PUBLISHED, ("Tidegate-Record", &none)];
        let message = shelved(&headers, &reply(1)).unwrap();
        assert_eq!((message.deliveries(), message.is_first()), (1, false));
    }

    #[test]
    fn what_no_sidecar_wrote_is_no_copy() {
        let record = r#"{"handler":"u","deliveries":4,"attempts":2,"failed":[]}"#;
        for headers in [
            &[][..],
            &[("Tidegate-Sequence", "41"), PUBLISHED],
            &[PUBLISHED, ("Tidegate-Record", record)],
            &[("Tidegate-Sequence", "41"), ("Tidegate-Record", record)],
            &[("Tidegate-Sequence", "-1"), PUBLISHED, ("Tidegate-Record", record)],
            &[("Tidegate-Sequence", "99999999999999999999"), PUBLISHED, ("Tidegate-Record", record)],
            &[("Tidegate-Sequence", "41"), ("Tidegate-Published-At", "noon"), ("Tidegate-Record", record)],
            &[("Tidegate-Sequence", "41"), PUBLISHED, ("Tidegate-Record", "{}")],
            &[("Tidegate-Sequence", "41"), PUBLISHED, ("Tidegate-Record", "[")],
        ] {
            let message = shelved(headers, &reply(2)).unwrap();
            assert!(message.copy().is_none() && message.is_of_the_shelf(), "{headers:?}");
            assert_eq!((message.deliveries(), message.shelf_deliveries()), (2, 2));
        }
        assert!(shelved(&[], "_INBOX.x").is_none(), "it cannot be acknowledged");
    }
}
