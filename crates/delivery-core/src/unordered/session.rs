//! Delivery inbox and the requests that reply to it.

use crate::event::{Lane, Moment};
use crate::exchange::{Action, Close, Kind, Pull};

/// What is added to two heartbeats before a silence means something.
const GRACE: Moment = 500;

/// How long a request stays open, and how often the broker says that it is, in milliseconds.
struct PullOptions {
    expires: Moment,
    heartbeat: Moment,
}

const FIRST_PULL: PullOptions = PullOptions { expires: 2000, heartbeat: 250 };
const LONG_PULL: PullOptions = PullOptions { expires: 25_000, heartbeat: 5000 };

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    lane: Lane,
    /// The number of its inbox.
    pub number: u64,
    /// The connection over which it was opened.
    pub epoch: u64,
    /// Events asked for that have not come.
    pub outstanding: usize,
    /// When something came last.
    pub heard: Moment,
    patience: Moment,
    /// Whether nothing more is expected of it. What was sent already still comes, until it is closed.
    pub is_closing: bool,
}

impl Session {
    /// Opens one of this source, with a first request.
    pub fn open(lane: Lane, number: u64, epoch: u64, now: Moment, batch: usize) -> (Self, Pull) {
        let mut session = Self { lane, number, epoch, outstanding: 0, heard: now, patience: 0, is_closing: false };
        let pull = session.ask(now, batch, &FIRST_PULL);
        (session, pull)
    }

    /// Asks for more.
    pub fn request(&mut self, now: Moment, batch: usize) -> Pull {
        self.ask(now, batch, &LONG_PULL)
    }

    fn ask(&mut self, now: Moment, batch: usize, terms: &PullOptions) -> Pull {
        if self.outstanding == 0 {
            // Silence counts from here: without an open request nothing is owed to us.
            self.heard = now;
        }
        self.outstanding += batch;
        self.patience = self.patience.max(terms.heartbeat * 2 + GRACE);
        let kind = Kind::Plain { heartbeat: terms.heartbeat };
        Pull { lane: self.lane, inbox: self.number, batch, expires: terms.expires, kind }
    }

    /// Delivery of them came.
    pub fn arrived(&mut self, now: Moment) {
        self.heard = now;
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Stops it. The end is [`InboxReport::Closed`](crate::InboxReport::Closed) and no moment: a process that was
    /// frozen would see the moment pass before it reads what had come.
    pub fn close(&mut self) -> Action {
        self.is_closing = true;
        Action::Close(self.lane, self.number, Close::InOrder)
    }

    /// When the silence, if it lasts, means that the consumer is gone; `None` while nothing is owed to us.
    pub fn silent_at(&self) -> Option<Moment> {
        (self.outstanding > 0 && !self.is_closing).then(|| self.heard + self.patience)
    }
}
