//! What may go wrong, and what each of it does to the world.

use tidegate_delivery_core::{Discipline as _, Handler, InboxReport, Trouble};

use crate::broker::Open;
use crate::world::{Coming, World, machine};

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Troubles {
    pub reconnects: u8,
    pub restarts: u8,
    pub lost_ends: u8,
    pub crashes: u8,
    pub lost_requests: u8,
    pub refusals: u8,
    pub retries: u8,
    pub shelved: u8,
    pub unconfirmed: u8,
    pub full: u8,
    pub outages: u8,
    pub drains: u8,
}

impl World {
    /// The connection is lost, with what was on its way, and made again.
    pub fn reconnect(&mut self) {
        self.disturbed = true;
        self.open.clear();
        // An inbox ends with its connection, also one that was to end in order.
        self.coming.retain(|coming| matches!(coming, Coming::InboxReport(.., InboxReport::Closed)));
        let closed = std::mem::take(&mut self.inboxes).into_iter();
        self.coming.extend(closed.map(|(lane, inbox)| Coming::InboxReport(lane, inbox, InboxReport::Closed)));
        self.demand.epoch += 1;
        self.act();
    }

    /// The broker is killed, and does not know of the topic's last acknowledgement. (What the shelf's consumer
    /// acknowledged is removed from the disk.)
    pub fn restart(&mut self) {
        let now = self.now;
        self.topic.forget_one(now);
        self.reconnect();
    }

    /// Whether the stream's end is one that can be lost here: what is on the shelf has a record and a copy by its sequence
    /// alone.
    pub fn can_lose_the_end(&self) -> bool {
        let last = self.published;
        last > 0 && !self.copied.contains(&last) && !self.records.contains_key(&last)
    }

    /// The broker is killed, and its disk has lost the latest event of the topic: the next one gets its sequence.
    pub fn lose_the_end(&mut self) {
        self.topic.lose(self.published);
        self.stored.remove(&self.published);
        self.published -= 1;
        self.reconnect();
    }

    /// The sidecar is killed, and another one starts.
    pub fn crash(&mut self) {
        self.here.clear();
        self.settled.clear();
        self.inboxes.clear();
        self.coming.clear();
        self.machine = machine(self.flaw);
        self.reconnect();
    }

    /// A request never arrives.
    pub fn lose_request(&mut self) {
        self.disturbed = true;
        self.open.pop();
    }

    /// The broker ends all requests of a consumer without saying what is left of them.
    pub fn refuse(&mut self) {
        self.disturbed = true;
        if let Some(Open { lane, inbox, .. }) = self.open.last().copied() {
            self.open.retain(|open| open.lane != lane);
            self.coming.push_back(Coming::InboxReport(lane, inbox, InboxReport::Lost(Trouble::Moved)));
        }
    }

    /// The handler goes away, or comes back.
    pub fn turn(&mut self) {
        self.demand.handler = if self.demand.handler == Handler::Up { Handler::Away } else { Handler::Up };
        self.act();
    }

    pub fn drain(&mut self) {
        self.machine.drain(self.now);
        self.act();
    }
}
