//! How many reconciles run at the same time: in all, and of one topic with its handlers.
//!
//! A broker that hangs holds up the reconciles that need it, and with them no more than a topic's share of the slots.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::brokers::TopicKey;

const ALL: usize = 32;
const OF_A_TOPIC: usize = 4;

/// The slots.
pub struct Slots {
    all: Arc<Semaphore>,
    topics: Mutex<HashMap<TopicKey, Arc<Semaphore>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), topics: Mutex::default() }
    }
}

impl Slots {
    /// Waits for a slot; it is free again when this is dropped. First the topic's: whoever waits for that takes none
    /// of the others'.
    pub async fn enter(&self, topic: TopicKey) -> Vec<OwnedSemaphorePermit> {
        let of_topic = self.lock().entry(topic).or_insert_with(|| Arc::new(Semaphore::new(OF_A_TOPIC))).clone();
        let mut held = Vec::with_capacity(2);
        // A semaphore that is never closed always gives its permit.
        held.extend(of_topic.acquire_owned().await);
        held.extend(self.all.clone().acquire_owned().await);
        held
    }

    /// Forgets the topics of which nothing is being reconciled.
    pub(crate) fn forget_idle(&self) {
        self.lock().retain(|_, slots| Arc::strong_count(slots) > 1 || slots.available_permits() < OF_A_TOPIC);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TopicKey, Arc<Semaphore>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
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
        let topic = |name: &str| TopicKey { namespace: "n".into(), name: name.into() };
        let mut held = Vec::new();
        for _ in 0..OF_A_TOPIC {
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
