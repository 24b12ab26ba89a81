//! Whether the broker's store still writes. Pure.
//!
//! That a server recognises an id does not always mean that it has the event on disk. nats-server learns the ids of a
//! batch before it flushes it, and answers nothing when the flush fails (stream.go, `processJetStreamAtomicBatchMsg`:
//! `FlushAllPending` comes after the members' `storeMsgIdLocked`). So after a batch that was not answered on a
//! connection that lives, `duplicate` does not acknowledge an event until the store has proved that it writes: one that
//! has failed once takes nothing more (filestore.go, `fs.werr`).
//!
//! With the connection the doubt ends. The answer may have been lost with it, and a server that started again knows the
//! ids of what it found on its disk.

use super::Ticket;

/// The last batch that was not answered, until the store has proved that it still writes.
#[derive(Debug, Default)]
pub struct Doubt(Option<Unanswered>);

#[derive(Debug)]
struct Unanswered {
    number: u64,
    /// Its first member. What has this ticket or a later one was sent behind the batch.
    first: Ticket,
}

impl Doubt {
    /// This batch, with this first member, was not answered.
    pub fn begin(&mut self, number: u64, first: Ticket) {
        self.0 = Some(Unanswered { number, first });
    }

    /// Whether an event that is recognised may not be on disk.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// An answer to a batch came late.
    pub fn batch_answered(&mut self, number: u64) {
        self.0.take_if(|unanswered| unanswered.number == number);
    }

    /// Something was stored that was not there before.
    pub fn stored(&mut self, ticket: Ticket) {
        self.0.take_if(|unanswered| ticket >= unanswered.first);
    }

    /// The store has written, or there is another connection.
    pub fn end(&mut self) {
        self.0 = None;
    }
}
