//! What the ingresses report: that events could not be stored, and how far a topic's stream is as publishers heard it.
//! Heard over the operator's own connections.
//!
//! A report of a failure or a loss is a reason to look at the topic at once, and one of a failure, for a while, to believe
//! that publishers are refused. How often a topic is looked at because of reports is bounded here, however many there are.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_broker_client::contract::{
    INGRESS_REPORT_PERIOD, IngressFailure, IngressReport, LostTail, StoreFailure, StreamProgress, VolumeRoom,
};
use tidegate_broker_client::layout::ingress::{INGRESS_REPORTS, reported_topic};
use tidegate_wire::nats::Client;

use crate::reconcile::changes::Changes;
use crate::sessions::brokers::TopicKey;

/// A larger report is not one.
const SIZE_LIMIT: usize = 4096;
/// Publishers count as refused for so long after the last report: they repeat some seconds after a 429.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(30);
/// Ingresses of one topic that are kept apart.
const PODS_LIMIT: usize = 16;
/// A topic in which nothing can be released is looked at this often, and no more, because of reports.
const HELD_PERIOD: Duration = Duration::from_secs(10);

/// Without a subscription, one is tried for again after this long.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Heard {
    /// When a publisher was last refused for want of room, and whose room that was.
    refused: Option<(Instant, Refusing)>,
    /// Of each pod whose ingress was not answered in time, since when, until when, and its volume.
    unanswered: HashMap<String, (Instant, Instant, Option<VolumeRoom>)>,
    /// Until then no report is a reason to look at the topic.
    quiet_until: Option<Instant>,
    /// How far its stream is.
    end: StreamEnd,
}

/// The end of a topic's stream, as its ingresses know it. It outlives the servers' volumes, and their pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The highest sequence that was acknowledged to a publisher; 0: nothing was heard.
    pub acknowledged: u64,
    /// What an ingress saw that it had lost, the last time that one did.
    pub lost: Option<LostTail>,
}

impl Heard {
    /// Whether it tells of a loss that was not known.
    fn note_progress(&mut self, acknowledged: Option<u64>, lost: Option<LostTail>) -> bool {
        let known = self.end.lost;
        let news = lost.filter(|lost| known.is_none_or(|known| lost.noticed > known.noticed));
        self.end.acknowledged = match (news, acknowledged) {
            // What the ingress says is from after the loss.
            (Some(_), acknowledged) => acknowledged.unwrap_or(0),
            (None, acknowledged) => self.end.acknowledged.max(acknowledged.unwrap_or(0)),
        };
        self.end.lost = news.or(known);
        news.is_some()
    }

    fn note_unanswered(&mut self, pod: String, now: Instant, volume: Option<VolumeRoom>) {
        self.unanswered.retain(|_, (_, last, _)| now.duration_since(*last) < REFUSAL_LIFETIME);
        if self.unanswered.len() < PODS_LIMIT || self.unanswered.contains_key(&pod) {
            let (_, last, known) = self.unanswered.entry(pod).or_insert((now, now, volume));
            (*last, *known) = (now, volume);
        }
    }
}

/// What has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusing {
    /// The topic's stream.
    Topic,
    /// The store that it shares with the broker's other topics.
    Broker,
}

/// A broker pod beside which publishers are not answered in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The pod.
    pub pod: String,
    /// From the first to the last report.
    pub lasting: Duration,
    /// How full its volume is; `None`: not known.
    pub volume: Option<VolumeRoom>,
}

/// All reports.
#[derive(Default)]
pub struct IngressReports {
    heard: Mutex<HashMap<TopicKey, Heard>>,
    changes: Changes<TopicKey>,
}

impl IngressReports {
    /// Waits for topics that have to be looked at.
    pub async fn changed(&self) -> HashSet<TopicKey> {
        self.changes.next().await
    }

    /// Hears a broker's ingresses, in their account, until it is dropped. `is_there`: whether a topic is on the broker.
    pub async fn hear(&self, ingresses: &Client, is_there: impl Fn(&TopicKey) -> bool) {
        loop {
            if let Ok(mut messages) = ingresses.subscribe(INGRESS_REPORTS, None) {
                while let Some(message) = messages.next().await {
                    let topic = reported_topic(message.subject()).map(|id| TopicKey::from(&id));
                    if let Some(topic) = topic.filter(&is_there) {
                        self.note(&topic, message.payload());
                    }
                }
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// For want of whose room publishers of this topic were refused lately; `None`: they were not.
    pub fn refusing(&self, topic: &TopicKey) -> Option<Refusing> {
        let heard = lock(&self.heard);
        let (at, what) = heard.get(topic)?.refused?;
        (at.elapsed() < REFUSAL_LIFETIME).then_some(what)
    }

    /// The broker pods beside which publishers are not answered in time.
    pub fn unanswered(&self, topic: &TopicKey) -> Vec<Unanswered> {
        let heard = lock(&self.heard);
        let pods = heard.get(topic).into_iter().flat_map(|heard| &heard.unanswered);
        pods.filter(|(_, (_, last, _))| last.elapsed() < REFUSAL_LIFETIME)
            .map(|(pod, (since, last, volume))| Unanswered {
                pod: pod.clone(),
                lasting: *last - *since,
                volume: *volume,
            })
            .collect()
    }

    /// The end of its stream. What was acknowledged before this is asked, was stored before that.
    pub fn end(&self, topic: &TopicKey) -> StreamEnd {
        lock(&self.heard).get(topic).map(|heard| heard.end).unwrap_or_default()
    }

    /// The topic's stream ends here: it is a new one, or what it lost is on record.
    pub fn begin_at(&self, topic: &TopicKey, last: u64) {
        if let Some(heard) = lock(&self.heard).get_mut(topic) {
            heard.end.acknowledged = last;
        }
    }

    /// The topic has to be looked at.
    pub fn look_at(&self, topic: &TopicKey) {
        self.changes.add(topic.clone());
    }

    /// There is room again: what was heard before says nothing any more.
    pub fn made_room(&self, topic: &TopicKey) {
        if let Some(heard) = lock(&self.heard).get_mut(topic) {
            (heard.refused, heard.quiet_until) = (None, None);
        }
    }

    /// Nothing can be done for room at the moment: further reports are no reason to look again at once.
    pub fn held(&self, topic: &TopicKey) {
        if let Some(heard) = lock(&self.heard).get_mut(topic) {
            heard.quiet_until = Some(Instant::now() + HELD_PERIOD);
        }
    }

    /// Forgets every topic that is no more.
    pub fn keep(&self, is_alive: impl Fn(&TopicKey) -> bool) {
        lock(&self.heard).retain(|topic, _| is_alive(topic));
    }

    fn note(&self, topic: &TopicKey, payload: &[u8]) {
        let report = serde_json::from_slice::<IngressReport>(payload).ok().filter(|_| payload.len() <= SIZE_LIMIT);
        let Some(report) = report else { return };
        let now = Instant::now();
        let mut heard = lock(&self.heard);
        let heard = heard.entry(topic.clone()).or_default();
        let IngressFailure { pod, failure, volume } = match report {
            IngressReport::Failure(report) => report,
            IngressReport::Progress(StreamProgress { pod: _, acknowledged, lost }) => {
                if heard.note_progress(acknowledged, lost) {
                    self.changes.add(topic.clone());
                }
                return;
            }
        };
        match failure {
            StoreFailure::Full => heard.refused = Some((now, Refusing::Topic)),
            StoreFailure::BrokerFull => heard.refused = Some((now, Refusing::Broker)),
            StoreFailure::Timeout => heard.note_unanswered(pod, now, volume),
        }
        if heard.quiet_until.is_none_or(|until| now >= until) {
            heard.quiet_until = Some(now + INGRESS_REPORT_PERIOD);
            self.changes.add(topic.clone());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn orders() -> TopicKey {
        TopicKey { namespace: "shop".into(), name: "orders".into() }
    }

    fn report(failure: &str) -> Vec<u8> {
        json!({"pod": "orders-broker-0", "failure": failure, "new": "field"}).to_string().into_bytes()
    }

    #[test]
    fn a_refusal_is_a_reason_to_look_but_not_each_of_many() {
        let reports = IngressReports::default();
        for wrong in [b"no".to_vec(), report("Tired"), vec![b' '; SIZE_LIMIT + 1]] {
            reports.note(&orders(), &wrong);
        }
        assert!(reports.refusing(&orders()).is_none() && reports.changed().now_or_never().is_none());
        for _ in 0..100 {
            reports.note(&orders(), &report("Full"));
        }
        assert_eq!(reports.refusing(&orders()), Some(Refusing::Topic));
        assert_eq!(reports.changed().now_or_never(), Some(HashSet::from([orders()])));
        reports.held(&orders());
        reports.note(&orders(), &report("Full"));
        assert_eq!(reports.changed().now_or_never(), None, "looked at only now");
        reports.made_room(&orders());
        assert_eq!(reports.refusing(&orders()), None);
        reports.note(&orders(), &report("BrokerFull"));
        assert!(reports.changed().now_or_never().is_some(), "full again");
        assert_eq!(reports.refusing(&orders()), Some(Refusing::Broker), "this time all of the broker");
        assert_eq!(reports.unanswered(&orders()), []);
        reports.note(&orders(), &report("Timeout"));
        let unanswered = reports.unanswered(&orders());
        assert_eq!((unanswered.len(), unanswered[0].pod.as_str()), (1, "orders-broker-0"));
        reports.keep(|_| false);
        assert_eq!(reports.refusing(&orders()), None);
    }

    #[test]
    fn how_far_a_stream_is_only_grows_until_it_has_lost_its_end() {
        let reports = IngressReports::default();
        let progress = |acknowledged: u64, lost: Option<(u64, u64)>| {
            let lost = lost.map(|(last, noticed)| LostTail { first: acknowledged, last, noticed });
            let acknowledged = Some(acknowledged);
            let said = IngressReport::Progress(StreamProgress { pod: "b-0".into(), acknowledged, lost });
            reports.note(&orders(), &serde_json::to_vec(&said).unwrap());
            (reports.end(&orders()).acknowledged, reports.changed().now_or_never().is_some())
        };
        assert_eq!(progress(100, None), (100, false));
        assert_eq!(progress(90, None), (100, false), "another ingress is behind");
        assert_eq!(progress(91, Some((100, 7))), (91, true), "the stream went back");
        assert_eq!(progress(93, Some((100, 7))), (93, false), "the same loss");
        assert_eq!(reports.end(&orders()).lost.map(|lost| (lost.first, lost.last)), Some((91, 100)));
        assert_eq!(progress(92, Some((93, 9))), (92, true));
        reports.begin_at(&orders(), 50);
        assert_eq!(progress(60, None), (60, false));
        reports.keep(|_| false);
        assert_eq!(reports.end(&orders()), StreamEnd::default());
    }
}
