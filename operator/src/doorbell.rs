//! Wakes sleeping handlers by their first event, without waiting for the next poll.
//!
//! For a topic that has a handler without pods, the operator listens to its events, for exactly one message: the
//! server itself ends the subscription after it. So a busy topic costs one message a second at most, and an idle
//! one nothing. The bell only means "ask now": how many pods are needed is decided from the broker's answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tidegate_broker_client::layout;
use tokio::sync::mpsc;

use crate::brokers::{Broker, TopicKey};

/// The bell rings when the event reaches the server; it counts as pending a little later, once it is stored.
const STORED_AFTER: Duration = Duration::from_millis(20);
/// A bell that nobody rang is hung up anew after this long: its connection may have been lost meanwhile.
const LIFETIME: Duration = Duration::from_secs(60);
/// Bells that rang and were not yet heard; one more than that is heard at the next poll.
const QUEUE: usize = 256;

/// The bells of all topics.
pub struct Doorbells {
    hung: Arc<Mutex<HashSet<TopicKey>>>,
    rang: mpsc::Sender<TopicKey>,
}

impl Doorbells {
    /// The bells, and where they are heard.
    pub fn new() -> (Self, mpsc::Receiver<TopicKey>) {
        let (rang, heard) = mpsc::channel(QUEUE);
        (Self { hung: Arc::default(), rang }, heard)
    }

    /// Rings once, at the topic's next event. Hung up already: fine.
    pub fn hang(&self, topic: &TopicKey, broker: &Arc<Broker>) {
        if !lock(&self.hung).insert(topic.clone()) {
            return;
        }
        let (hung, rang, topic, broker) = (self.hung.clone(), self.rang.clone(), topic.clone(), broker.clone());
        tokio::spawn(async move {
            let event = tokio::time::timeout(LIFETIME, next_event(&broker)).await;
            lock(&hung).remove(&topic);
            if let Ok(true) = event {
                let _ = rang.try_send(topic);
            }
        });
    }
}

/// Waits for one event; `false` if there is no connection to hear it.
async fn next_event(broker: &Broker) -> bool {
    let Ok(mut events) = broker.client().subscribe(layout::EVENT_SUBJECTS).await else {
        return false;
    };
    if events.unsubscribe_after(1).await.is_err() || events.next().await.is_none() {
        return false;
    }
    tokio::time::sleep(STORED_AFTER).await;
    true
}

fn lock(hung: &Mutex<HashSet<TopicKey>>) -> std::sync::MutexGuard<'_, HashSet<TopicKey>> {
    hung.lock().unwrap_or_else(PoisonError::into_inner)
}
