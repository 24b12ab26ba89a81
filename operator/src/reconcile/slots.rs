//! How many reconciles run at the same time: in all, and of one topic with its handlers.
//!
//! A broker that hangs holds up the reconciles that need it, and with them no more than a topic's share of the slots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sessions::brokers::{BrokerKey, TopicKey};

const ALL: usize = 32;
const OF_A_HOLDER: usize = 4;

/// Whose share of the slots a reconcile has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A broker.
    Broker(BrokerKey),
    /// A topic, with its handlers.
    Topic(TopicKey),
    /// The handlers of a namespace that name topics which have not let them in.
    Strangers(String),
}

/// The slots.
pub struct Slots {
    all: Arc<Semaphore>,
    holders: Mutex<HashMap<Holder, Arc<Semaphore>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), holders: Mutex::default() }
    }
}

impl Slots {
    /// Waits for a slot; it is free again when this is dropped. First the holder's: whoever waits for that takes none
    /// of the others'.
    pub async fn enter(&self, holder: Holder) -> Vec<OwnedSemaphorePermit> {
        let of_holder = self.lock().entry(holder).or_insert_with(|| Arc::new(Semaphore::new(OF_A_HOLDER))).clone();
        let mut held = Vec::with_capacity(2);
        // A semaphore that is never closed always gives its permit.
        held.extend(of_holder.acquire_owned().await);
        held.extend(self.all.clone().acquire_owned().await);
        held
    }

    /// Forgets those of which nothing is being reconciled.
    pub(crate) fn forget_idle(&self) {
        self.lock().retain(|_, slots| Arc::strong_count(slots) > 1 || slots.available_permits() < OF_A_HOLDER);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Arc<Semaphore>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_topic_takes_no_more_than_its_share() {
        let slots = Slots::default();
        let topic = |name: &str| Holder::Topic(TopicKey { namespace: "n".into(), name: name.into() });
        let mut held = Vec::new();
        for _ in 0..OF_A_HOLDER {
            held.push(slots.enter(topic("a")).await);
        }
        assert!(timeout(Duration::from_millis(10), slots.enter(topic("a"))).await.is_err());
        held.push(slots.enter(topic("b")).await);
        slots.forget_idle();
        assert_eq!(slots.lock().len(), 2);
        held.clear();
        slots.forget_idle();
        assert_eq!(slots.lock().len(), 0);
    }
}
