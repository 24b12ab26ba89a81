//! The events that are here: each is counted, and its bytes are, from when it comes until it leaves.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_delivery_core::{Disposition, Id, Lane, Outcome};

use crate::broker::message::Message;
use crate::consume::flight::Event;
use crate::consume::process::Context;

/// One of them.
struct HeldEvent {
    event: Arc<Event>,
    /// How it is counted when it leaves.
    how: Outcome,
}

/// All of them, by the number of their arrival.
pub struct Events {
    context: Arc<Context>,
    here: HashMap<u64, HeldEvent>,
    arrivals: u64,
}

impl Events {
    /// None yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, here: HashMap::new(), arrivals: 0 }
    }

    /// Takes in what came, and names it.
    pub fn keep(&mut self, lane: Lane, message: Message) -> Id {
        self.context.metrics.came();
        self.arrivals += 1;
        let (sequence, stored, delivery) = (message.sequence(), message.published_at(), message.number());
        let how = if message.is_stored() { Outcome::GivenBack } else { Outcome::Dropped };
        self.here.insert(self.arrivals, HeldEvent { event: Arc::new(Event::new(message)), how });
        Id { lane, sequence, stored, delivery, arrival: self.arrivals }
    }

    /// The event, if it is here.
    pub fn get(&self, id: Id) -> Option<&Message> {
        self.here.get(&id.arrival).map(|here| &here.event.message)
    }

    /// How it is counted as things are.
    pub fn how(&self, id: Id) -> Outcome {
        self.here.get(&id.arrival).map_or(Outcome::GivenBack, |here| here.how)
    }

    /// The event for an attempt.
    pub fn begin(&mut self, id: Id) -> Option<Arc<Event>> {
        let here = self.here.get_mut(&id.arrival)?;
        if here.how == Outcome::Dropped {
            // It cannot go back, also if a drain ends before its attempt does.
            here.how = Outcome::Failed;
        }
        Some(here.event.clone())
    }

    /// The broker is told that it may forget the event: without an attempt that is over, because it came before.
    pub fn acknowledged(&mut self, id: Id) {
        if let Some(here) = self.here.get_mut(&id.arrival)
            && here.how == Outcome::GivenBack
        {
            here.how = Outcome::Repeated;
        }
    }

    /// Its attempt is over.
    pub fn attempted(&mut self, id: Id, disposition: Disposition) {
        let Some(here) = self.here.get_mut(&id.arrival) else { return };
        here.how = disposition.settled();
        match disposition {
            // Why it waits is on record, as with an attempt; what only lost its turn left no trace.
            Disposition::RetryIn(_) | Disposition::Detain => here.event.message.stays(),
            Disposition::GiveBack(wait) if !wait.is_zero() => here.event.message.stays(),
            Disposition::GiveBack(_) | Disposition::Over(_) => {}
        }
    }

    /// Copies of them are on the shelf.
    pub fn parked(&mut self, ids: &[Id]) {
        for id in ids {
            if let Some(here) = self.here.get_mut(&id.arrival)
                && here.how != Outcome::Held
            {
                here.how = Outcome::Parked;
            }
        }
    }

    /// It is here no longer; an attempt that runs ends.
    pub fn let_go(&mut self, id: Id) {
        if let Some(here) = self.here.remove(&id.arrival) {
            here.event.end();
            self.context.metrics.left(here.how);
        }
    }
}
