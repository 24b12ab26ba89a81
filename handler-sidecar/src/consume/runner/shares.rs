//! Which lanes are ours, as the members share them out: none while the handler is suspended.

use std::collections::BTreeSet;

use tidegate_delivery_core::{Input, Lane};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::members::{ACQUAINTANCE, Members, View};

/// The members' shares.
pub struct Shares<'a> {
    members: &'a Members,
    view: watch::Receiver<View>,
    others: watch::Receiver<Option<BTreeSet<Lane>>>,
    lanes: u16,
    is_suspended: watch::Receiver<bool>,
    /// The others are heard first, or a newcomer would ask for all lanes.
    from: Option<Instant>,
    /// Whether they are not known to be the same.
    are_new: bool,
}

impl<'a> Shares<'a> {
    /// Of so many lanes.
    pub fn new(members: &'a Members, lanes: u16, is_suspended: watch::Receiver<bool>) -> Self {
        let (mut others, from) = (members.others(), Some(Instant::now() + ACQUAINTANCE));
        others.mark_changed();
        Self { view: members.subscribe(), others, members, lanes, is_suspended, from, are_new: true }
    }

    /// Lets the other members know of which lanes there may be events here.
    pub fn announce(&self, lanes: BTreeSet<Lane>) {
        self.members.announce(lanes);
    }

    /// Our lanes or those of others, if they may have changed.
    pub fn changed(&mut self) -> Option<Input> {
        if self.others.has_changed().unwrap_or(false)
            && let Some(others) = self.others.borrow_and_update().clone()
        {
            return Some(Input::Others(others));
        }
        if self.from.is_some_and(|from| Instant::now() < from) || !self.are_new {
            return None;
        }
        (self.from, self.are_new) = (None, false);
        let lanes = self.view.borrow_and_update().lanes(self.members.me(), self.lanes);
        let is_suspended = *self.is_suspended.borrow_and_update();
        Some(Input::Lanes(if is_suspended { BTreeSet::new() } else { lanes }))
    }

    /// Waits for a change of the members, or for the handler to be suspended or resumed.
    pub async fn changes(&mut self) {
        // The senders live as long as the process works.
        tokio::select! {
            Ok(()) = self.view.changed() => self.are_new = true,
            Ok(()) = self.is_suspended.changed() => self.are_new = true,
            // To be found changed by the next look.
            Ok(()) = self.others.changed() => self.others.mark_changed(),
            else => std::future::pending().await,
        }
    }

    /// When the lanes are known.
    pub fn wake_at(&self) -> Option<Instant> {
        self.from
    }
}
