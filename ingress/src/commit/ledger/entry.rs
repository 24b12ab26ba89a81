//! What a ledger keeps of publishes, batches and requests.

use std::time::Instant;

use super::Ticket;

/// A publish that is not settled.
pub struct Entry {
    pub size: usize,
    pub state: State,
    /// Of a request with several events their common one counts.
    pub deadline: Instant,
    /// The first ticket of the request, if that has several events.
    pub request: Option<Ticket>,
    /// It goes one by one: it may be a repetition, or was in a batch that was not stored.
    pub alone: bool,
    /// The broker may have it.
    pub sent: bool,
    /// It is not sent again after this time.
    pub resend_until: Option<Instant>,
}

/// Where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waiting,
    Single,
    Batch,
}

/// A batch that is under way.
pub struct Batch {
    pub number: u64,
    pub members: Vec<Ticket>,
    pub sent: Instant,
    /// When its answer is not waited for any longer.
    pub given_up: Instant,
}

/// A request with several events.
pub struct Request {
    pub open: usize,
    pub failed: bool,
    pub deadline: Instant,
}
