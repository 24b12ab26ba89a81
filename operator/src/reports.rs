//! What the sidecars say of themselves, heard over the operator's own connections.
//!
//! A report is state: the newest of a pod counts, and one that is not repeated is forgotten. Nothing of the data path
//! depends on it; it is only shown, in the condition `HandlerAvailable`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tidegate_broker_client::contract::{REPORT_PERIOD, Report};
use tidegate_broker_client::layout;
use tokio::sync::Notify;

use crate::brokers::{Broker, TopicKey};
use crate::lag::HandlerKey;
use crate::workload::{TotalWorkload, Workloads};

/// A larger report is not one.
const SIZE_LIMIT: usize = 4096;
/// A report that was not repeated for so long is forgotten.
const LIFETIME: Duration = Duration::from_secs(REPORT_PERIOD.as_secs() * 3);
/// Pods of one handler that are kept apart.
const PODS_LIMIT: usize = 1000;

/// What the pods of a handler say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Availability {
    /// Pods that reported lately.
    pub pods: usize,
    /// How many of them find the handler's container down.
    pub down: usize,
    /// Why, of one of these.
    pub why: String,
}

type Pods = HashMap<String, (Option<String>, Instant)>;

/// All reports.
pub struct Reports {
    heard: Mutex<HashMap<HandlerKey, Pods>>,
    workloads: Mutex<HashMap<HandlerKey, Workloads>>,
    origin: Instant,
    changed: Mutex<HashSet<HandlerKey>>,
    news: Notify,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            heard: Mutex::default(),
            workloads: Mutex::default(),
            origin: Instant::now(),
            changed: Mutex::default(),
            news: Notify::default(),
        }
    }
}

impl Reports {
    /// How much the pods of a handler work together; `None`: none has reported lately.
    pub fn workload(&self, handler: &HandlerKey) -> Option<TotalWorkload> {
        lock(&self.workloads).get(handler)?.total(self.origin.elapsed())
    }

    /// Waits for handlers of which some pod says something else than before.
    pub async fn changed(&self) -> HashSet<HandlerKey> {
        loop {
            let changed = std::mem::take(&mut *lock(&self.changed));
            if !changed.is_empty() {
                return changed;
            }
            self.news.notified().await;
        }
    }

    /// Listens to the reports of a topic's handlers, as long as the operator knows the broker. Doing so already: fine.
    pub fn listen(self: &Arc<Self>, topic: &TopicKey, broker: &Broker) {
        broker.listen("reports", || {
            let (reports, namespace, client) = (Arc::clone(self), topic.namespace.clone(), broker.client().clone());
            tokio::spawn(async move {
                let Ok(mut messages) = client.subscribe(layout::REPORT_SUBJECTS).await else { return };
                while let Some(message) = messages.next().await {
                    let handler = message.subject.rsplit('.').next().unwrap_or_default();
                    reports.note((namespace.clone(), handler.to_owned()), &message.payload);
                }
            })
        });
    }

    /// What the pods of a handler said lately; `None`: nothing.
    pub fn availability(&self, handler: &HandlerKey) -> Option<Availability> {
        let heard = lock(&self.heard);
        let pods: Vec<_> = heard.get(handler)?.values().filter(|(_, at)| at.elapsed() < LIFETIME).collect();
        let down: Vec<&String> = pods.iter().filter_map(|(outage, _)| outage.as_ref()).collect();
        let why = down.first().map(|why| (*why).clone()).unwrap_or_default();
        (!pods.is_empty()).then_some(Availability { pods: pods.len(), down: down.len(), why })
    }

    /// Forgets every handler that is no more, and every report that was not repeated, of which it tells.
    pub fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        let mut heard = lock(&self.heard);
        heard.retain(|key, _| is_alive(key));
        lock(&self.workloads).retain(|key, _| is_alive(key));
        for (handler, pods) in heard.iter_mut() {
            let before = pods.len();
            pods.retain(|_, (_, at)| at.elapsed() < LIFETIME);
            if pods.len() < before {
                lock(&self.changed).insert(handler.clone());
                self.news.notify_one();
            }
        }
    }

    /// Takes a report down, and tells if it says something else than the pod's last one.
    fn note(&self, handler: HandlerKey, payload: &[u8]) {
        let report = serde_json::from_slice::<Report>(payload).ok().filter(|_| payload.len() <= SIZE_LIMIT);
        let Some(Report { pod, outage, workload }) = report else { return };
        if let Some(workload) = workload {
            lock(&self.workloads).entry(handler.clone()).or_default().note(self.origin.elapsed(), &pod, workload);
        }
        let mut heard = lock(&self.heard);
        let pods = heard.entry(handler.clone()).or_default();
        if pods.len() >= PODS_LIMIT && !pods.contains_key(&pod) {
            return;
        }
        let is_down = outage.is_some();
        if pods.insert(pod, (outage, Instant::now())).is_none_or(|(before, _)| before.is_some() != is_down) {
            lock(&self.changed).insert(handler);
            self.news.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tidegate_test_broker::TestBroker;

    use super::*;

    fn key() -> HandlerKey {
        ("shop".into(), "billing".into())
    }

    fn report(pod: &str, outage: Option<&str>) -> Vec<u8> {
        serde_json::to_vec(&Report { pod: pod.into(), outage: outage.map(Into::into), workload: None }).unwrap()
    }

    #[test]
    fn the_newest_report_of_a_pod_counts() {
        let reports = Reports::default();
        let news = || std::mem::take(&mut *lock(&reports.changed)).len();
        assert_eq!(reports.availability(&key()), None);
        reports.note(key(), &report("a", None));
        assert_eq!(news(), 1, "a first report is news");
        reports.note(key(), &report("a", None));
        assert_eq!(news(), 0);
        reports.note(key(), &report("b", Some("503 from all")));
        assert_eq!(news(), 1);
        let found = reports.availability(&key()).unwrap();
        assert_eq!(found, Availability { pods: 2, down: 1, why: "503 from all".into() });
        reports.note(key(), &report("b", None));
        assert_eq!((news(), reports.availability(&key()).unwrap().down), (1, 0));
    }

    /// Says for a while what a pod says, until it is heard.
    async fn is_heard(reports: &Reports, server: &TestBroker, pod: &str) -> bool {
        for _ in 0..40 {
            server.operator().publish("reports.billing", report(pod, None).into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(25)).await;
            if lock(&reports.heard).get(&key()).is_some_and(|pods| pods.contains_key(pod)) {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn listening_ends_with_the_broker_and_begins_with_the_next_one_of_the_topic() {
        let server = TestBroker::start_direct().await;
        let topic = TopicKey { namespace: "shop".into(), name: "orders".into() };
        let reports = Arc::new(Reports::default());
        let first = Broker::of_test(&server).await;
        reports.listen(&topic, &first);
        assert!(is_heard(&reports, &server, "a").await);
        drop(first);
        assert!(!is_heard(&reports, &server, "b").await, "nobody is to listen for a topic that is gone");
        let second = Broker::of_test(&server).await;
        reports.listen(&topic, &second);
        assert!(is_heard(&reports, &server, "c").await);
    }

    #[test]
    fn what_is_no_report_is_nothing() {
        let reports = Reports::default();
        reports.note(key(), b"{}");
        reports.note(key(), &report(&"x".repeat(SIZE_LIMIT), None));
        assert_eq!(reports.availability(&key()), None);
    }
}
