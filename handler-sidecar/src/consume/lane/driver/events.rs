//! The events of a lane that are here: each is counted, and its bytes are, from when it comes until it leaves.

use std::sync::Arc;

use async_nats::Subject;
use tokio_util::sync::CancellationToken;

use crate::consume::in_hand::InHand;
use crate::consume::lane::in_flight::InFlight;
use crate::consume::lane::owner::Id;
use crate::consume::process::Context;
use crate::ops::metrics::Settled;

/// An event in hand.
#[derive(Debug)]
pub struct Event {
    /// Where it is acknowledged.
    pub reply: Subject,
    /// `None` while an attempt runs, which has it.
    pub stored: Option<InHand>,
    /// Ends the attempt.
    cancel: CancellationToken,
    /// How it is counted when it leaves.
    pub how: Settled,
}

impl Event {
    /// Ends its attempt, if there is one.
    pub fn end(&self) {
        self.cancel.cancel();
    }
}

/// All of them.
pub struct Events {
    context: Arc<Context>,
    here: InFlight<Event>,
}

impl Events {
    /// None yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, here: InFlight::default() }
    }

    /// Takes in what came, and names it.
    pub fn keep(&mut self, stored: InHand) -> Id {
        self.context.metrics.came();
        let (sequence, delivery) = (stored.sequence(), stored.number());
        let (reply, cancel) = (stored.acknowledgement().clone(), CancellationToken::new());
        let event = Event { reply, stored: Some(stored), cancel, how: Settled::GivenBack };
        self.here.insert(sequence, delivery, event)
    }

    /// It is here no longer.
    pub fn let_go(&mut self, id: Id) -> Option<Event> {
        let event = self.here.remove(id)?;
        self.context.metrics.left(event.how);
        Some(event)
    }

    /// The event for an attempt, and what ends that.
    pub fn begin(&mut self, id: Id) -> Option<(InHand, CancellationToken)> {
        let event = self.here.get_mut(id)?;
        Some((event.stored.take()?, event.cancel.clone()))
    }

    /// The event, if it is here.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut Event> {
        self.here.get_mut(id)
    }

    /// The same, to be looked at.
    pub fn get(&self, id: Id) -> Option<&Event> {
        self.here.get(id)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for id in self.here.ids() {
            self.let_go(id);
        }
    }
}
