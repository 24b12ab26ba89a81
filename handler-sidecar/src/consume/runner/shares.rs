//! Which lanes are ours, as the members share them out.

use tidegate_delivery_core::Input;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::members::{ACQUAINTANCE, Members, View};

/// The members' shares.
pub struct Shares<'a> {
    members: &'a Members,
    view: watch::Receiver<View>,
    lanes: u16,
    /// The others are heard first, or a newcomer would ask for all lanes.
    from: Option<Instant>,
    /// Whether they are not known to be the same.
    are_new: bool,
}

impl<'a> Shares<'a> {
    /// Of so many lanes.
    pub fn new(members: &'a Members, lanes: u16) -> Self {
        Self { view: members.subscribe(), members, lanes, from: Some(Instant::now() + ACQUAINTANCE), are_new: true }
    }

    /// Our lanes, if they may have changed.
    pub fn changed(&mut self) -> Option<Input> {
        if self.from.is_some_and(|from| Instant::now() < from) || !self.are_new {
            return None;
        }
        (self.from, self.are_new) = (None, false);
        Some(Input::Lanes(self.view.borrow_and_update().lanes(self.members.me(), self.lanes)))
    }

    /// Waits for a change of the members.
    pub async fn changes(&mut self) {
        // The sender lives as long as the members.
        if self.view.changed().await.is_err() {
            std::future::pending().await
        }
        self.are_new = true;
    }

    /// When the lanes are known.
    pub fn wake_at(&self) -> Option<Instant> {
        self.from
    }
}
