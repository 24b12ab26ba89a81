//! Which lanes are ours, as the members share them out: none while the handler is suspended.

use std::collections::BTreeSet;

use tidegate_delivery_core::Input;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::members::{ACQUAINTANCE, Members, View};

/// The members' shares.
pub struct Shares<'a> {
    members: &'a Members,
    view: watch::Receiver<View>,
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
        let from = Some(Instant::now() + ACQUAINTANCE);
        Self { view: members.subscribe(), members, lanes, is_suspended, from, are_new: true }
    }

    /// Our lanes, if they may have changed.
    pub fn changed(&mut self) -> Option<Input> {
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
        // Both senders live as long as the process works.
        tokio::select! {
            Ok(()) = self.view.changed() => {}
            Ok(()) = self.is_suspended.changed() => {}
            else => std::future::pending().await,
        }
        self.are_new = true;
    }

    /// When the lanes are known.
    pub fn wake_at(&self) -> Option<Instant> {
        self.from
    }
}
