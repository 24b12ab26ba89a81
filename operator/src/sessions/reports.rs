//! What the sidecars say of themselves, heard over the operator's own connection to the account of a broker's ingresses.
//!
//! A report is state: the newest of a pod counts, and one that is not repeated is forgotten. Nothing of the data path
//! depends on it; it is only shown, in the conditions `HandlerAvailable` and `Delivering`. It comes from a pod of the
//! user's, so all of it is bounded here.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_broker_client::contract::{REPORT_PERIOD, Report};
use tidegate_broker_client::layout;
use tidegate_broker_client::layout::ingress::{REPORTS, reporter_of};
use tidegate_broker_client::outcomes::{MAX_TEXT, Outcomes, single_line};

use tidegate_wire::nats::Client;

use crate::autoscaling::workload::{TotalWorkload, Workloads};
use crate::reconcile::changes::Changes;
use crate::sessions::brokers::TopicKey;
use crate::sessions::by_handler::HandlerKey;
use crate::sessions::deliveries::{Deliveries, LetterWarning, Showcase};

/// A larger report is not one.
const SIZE_LIMIT: usize = 4096;
/// A report that was not repeated for so long is forgotten.
const LIFETIME: Duration = Duration::from_secs(REPORT_PERIOD.as_secs() * 3);
/// The longest name of a pod.
const NAME_LIMIT: usize = 253;
/// Without a subscription, one is tried for again after this long.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
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
    /// Who can connect to the program; `None`: none of them knows.
    pub exposure: Option<Exposure>,
}

/// Who can connect to a handler's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Its own pod alone.
    Loopback,
    /// Others too, at this address.
    Address(String),
}

/// A handler, as its pods report it.
#[derive(Default)]
struct Handler {
    pods: HashMap<String, Pod>,
    showcase: Showcase,
    /// A hash of the pod template.
    template: Option<u64>,
}

/// The newest report of a pod.
struct Pod {
    outage: Option<String>,
    exposure: Option<Exposure>,
    outcomes: Outcomes,
    /// Of the identity that it has; `None`: its sidecar is older than these.
    generation: Option<u64>,
    /// It is of an older template: how its deliveries end says nothing about the present one.
    is_outdated: bool,
    at: Instant,
}

impl Handler {
    fn alive(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|pod| pod.at.elapsed() < LIFETIME)
    }

    /// Renews what is shown of the deliveries, and tells whether the handler has to be reconciled for it.
    fn renew(&mut self, now: Duration) -> bool {
        let Self { pods, showcase, .. } = self;
        let alive = pods.values().filter(|pod| pod.at.elapsed() < LIFETIME && !pod.is_outdated);
        showcase.renew(now, alive.map(|pod| &pod.outcomes))
    }
}

/// All reports.
pub struct Reports {
    origin: Instant,
    heard: Mutex<HashMap<HandlerKey, Handler>>,
    workloads: Mutex<HashMap<HandlerKey, Workloads>>,
    changes: Changes<HandlerKey>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            heard: Mutex::default(),
            workloads: Mutex::default(),
            changes: Changes::default(),
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
        self.changes.next().await
    }

    /// Hears the reports of all handlers on a broker, in the account of its ingresses, until it is dropped. `is_of_topic`:
    /// whether a handler is one of the topic's, and that on the broker.
    pub async fn hear(&self, ingresses: &Client, is_of_topic: impl Fn(&TopicKey, &HandlerKey) -> bool) {
        loop {
            if let Ok(mut messages) = ingresses.subscribe(REPORTS, None) {
                while let Some(message) = messages.next().await {
                    let Some((topic, known_as)) = reporter_of(message.subject()) else { continue };
                    let (namespace, name) = layout::handler_named(topic.namespace(), known_as);
                    let handler = (namespace.to_owned(), name.to_owned());
                    if is_of_topic(&TopicKey::from(&topic), &handler) {
                        self.note(handler, message.payload());
                    }
                }
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// What the pods of a handler said lately; `None`: nothing.
    pub fn availability(&self, handler: &HandlerKey) -> Option<Availability> {
        let heard = lock(&self.heard);
        let pods: Vec<_> = heard.get(handler)?.alive().collect();
        let down: Vec<&String> = pods.iter().filter_map(|pod| pod.outage.as_ref()).collect();
        let why = down.first().map(|why| (*why).clone()).unwrap_or_default();
        let known: Vec<&Exposure> = pods.iter().filter_map(|pod| pod.exposure.as_ref()).collect();
        let exposed = known.iter().find(|exposure| ***exposure != Exposure::Loopback);
        let exposure = exposed.or(known.first()).map(|exposure| (*exposure).clone());
        (!pods.is_empty()).then_some(Availability { pods: pods.len(), down: down.len(), why, exposure })
    }

    /// The generations of the identities of a handler's pods, of those that said it lately.
    pub fn generations(&self, handler: &HandlerKey) -> HashMap<String, u64> {
        let heard = lock(&self.heard);
        let pods = heard.get(handler).into_iter().flat_map(|handler| &handler.pods);
        let generation = |pod: &Pod| pod.generation.filter(|_| pod.at.elapsed() < LIFETIME);
        pods.filter_map(|(name, pod)| Some((name.clone(), generation(pod)?))).collect()
    }

    /// How deliveries of a handler end, as it is shown; `None`: no pod said anything lately.
    pub fn deliveries(&self, handler: &HandlerKey) -> Option<Deliveries> {
        let heard = lock(&self.heard);
        let handler = heard.get(handler)?;
        handler.alive().find(|pod| !pod.is_outdated)?;
        Some(handler.showcase.shown().clone())
    }

    /// Tells of the pod template that is in force. The pods known before a change of it are on their way out.
    pub fn note_template(&self, handler: &HandlerKey, template: u64) {
        let mut heard = lock(&self.heard);
        let reported = heard.entry(handler.clone()).or_default();
        if reported.template.replace(template).is_some_and(|before| before != template) {
            reported.pods.values_mut().for_each(|pod| pod.is_outdated = true);
            reported.renew(self.origin.elapsed());
        }
    }

    /// New dead letters of a handler that a person should hear of now.
    pub fn take_warning(&self, handler: &HandlerKey) -> Option<LetterWarning> {
        lock(&self.heard).get_mut(handler)?.showcase.take_warning(self.origin.elapsed())
    }

    /// Forgets every handler that is no more, and every report that was not repeated, of which it tells.
    pub fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        let mut heard = lock(&self.heard);
        heard.retain(|key, _| is_alive(key));
        lock(&self.workloads).retain(|key, _| is_alive(key));
        for (handler, reported) in heard.iter_mut() {
            let before = reported.pods.len();
            let Handler { pods, showcase, .. } = reported;
            pods.retain(|_, pod| pod.at.elapsed() < LIFETIME);
            showcase.keep(|pod| pods.contains_key(pod));
            if pods.len() < before {
                reported.renew(self.origin.elapsed());
                self.changes.add(handler.clone());
            }
        }
    }

    /// Takes a report down, and tells if it says something else than the pod's last one.
    fn note(&self, handler: HandlerKey, payload: &[u8]) {
        let report = serde_json::from_slice::<Report>(payload).ok().filter(|_| payload.len() <= SIZE_LIMIT);
        let Some(Report { pod, outage, workload, exposed, loopback_only, outcomes, generation }) = report else {
            return;
        };
        let (pod, outage) = (single_line(&pod, NAME_LIMIT), outage.map(|why| single_line(&why, MAX_TEXT)));
        if let Some(workload) = workload {
            lock(&self.workloads).entry(handler.clone()).or_default().note(self.origin.elapsed(), &pod, workload);
        }
        let exposed = exposed.map(|address| Exposure::Address(single_line(&address, MAX_TEXT)));
        let exposure = exposed.or(loopback_only.then_some(Exposure::Loopback));
        let outcomes = with_valid_time(outcomes.sanitized());
        let mut heard = lock(&self.heard);
        let reported = heard.entry(handler.clone()).or_default();
        if reported.pods.len() >= PODS_LIMIT && !reported.pods.contains_key(&pod) {
            return;
        }
        let headline = |pod: &Pod| (pod.outage.is_some(), pod.exposure.as_ref().map(std::mem::discriminant));
        reported.showcase.note_letters(&pod, outcomes.dead_lettered);
        let is_outdated = reported.pods.get(&pod).is_some_and(|before| before.is_outdated);
        let newest = Pod { outage, exposure, outcomes, generation, is_outdated, at: Instant::now() };
        let is_turned = reported.pods.get(&pod).is_none_or(|before| headline(before) != headline(&newest));
        reported.pods.insert(pod, newest);
        if reported.renew(self.origin.elapsed()) || is_turned {
            self.changes.add(handler);
        }
    }
}

/// A failure's time is one, and not in the future, or the failure would be the last one for ever.
fn with_valid_time(mut outcomes: Outcomes) -> Outcomes {
    if let Some(failure) = &mut outcomes.last_failure {
        let now = jiff::Timestamp::now();
        failure.time = failure.time.parse().map_or(now, |time| now.min(time)).to_string();
    }
    outcomes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_broker_client::outcomes::{Failing, Failure};
    use tidegate_broker_client::{identity, peer};
    use tidegate_test_broker::{TestBroker, topic_id};

    use super::*;

    fn key() -> HandlerKey {
        ("test".into(), "billing".into())
    }

    fn heard(pod: &str) -> Report {
        Report {
            pod: pod.into(),
            outage: None,
            workload: None,
            exposed: None,
            loopback_only: false,
            outcomes: Outcomes::default(),
            generation: None,
        }
    }

    fn report(pod: &str, outage: Option<&str>) -> Vec<u8> {
        serde_json::to_vec(&Report { outage: outage.map(Into::into), ..heard(pod) }).unwrap()
    }

    #[test]
    fn the_newest_report_of_a_pod_counts() {
        let reports = Reports::default();
        let news = || reports.changes.take().len();
        assert_eq!(reports.availability(&key()), None);
        reports.note(key(), &report("a", None));
        assert_eq!(news(), 1, "a first report is news");
        reports.note(key(), &report("a", None));
        assert_eq!(news(), 0);
        reports.note(key(), &report("b", Some("503 from all")));
        assert_eq!(news(), 1);
        let found = reports.availability(&key()).unwrap();
        assert_eq!(found, Availability { pods: 2, down: 1, why: "503 from all".into(), exposure: None });
        reports.note(key(), &report("b", None));
        assert_eq!((news(), reports.availability(&key()).unwrap().down), (1, 0));
    }

    /// Says for a while what a pod says, until it is heard.
    async fn is_heard(reports: &Reports, sidecar: &async_nats::Client, pod: &str) -> bool {
        for _ in 0..40 {
            sidecar.publish(layout::report_subject("billing"), report(pod, None).into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(25)).await;
            if lock(&reports.heard).get(&key()).is_some_and(|handler| handler.pods.contains_key(pod)) {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn hearing_ends_with_the_session_and_begins_with_the_next_one_of_the_broker() {
        let server = TestBroker::start_direct().await;
        let identity = server.direct_handler("billing").await;
        let sidecar = peer::connect("sidecar", &server.servers(), identity::folder(identity)).await.unwrap();
        let reports = Arc::new(Reports::default());
        let topic = TopicKey::from(&topic_id());
        let hear = |ingresses: Client| {
            let (reports, topic) = (reports.clone(), topic.clone());
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
                let is_mine = |of: &TopicKey, (_, handler): &HandlerKey| *of == topic && handler == "billing";
                reports.hear(&ingresses, is_mine).await
            }))
        };
        let first = hear(server.ingress_operator_client().await);
        assert!(is_heard(&reports, &sidecar, "a").await);
        drop(first);
        assert!(!is_heard(&reports, &sidecar, "b").await, "the session has ended");
        let _second = hear(server.ingress_operator_client().await);
        assert!(is_heard(&reports, &sidecar, "c").await);
    }

    /// What a pod says is shown to people: none of it reaches beyond its place.
    #[test]
    fn a_hostile_report_is_bounded() {
        let reports = Reports::default();
        let failure = Failure {
            time: "9999-12-31T23:59:59Z".into(),
            event_id: "1\u{1b}[2J".into(),
            error: "x\n".repeat(300),
            ..Failure::default()
        };
        let outcomes = Outcomes {
            handled: u64::MAX,
            failing: Some(Failing { events: u32::MAX, refused: true }),
            last_failure: Some(failure),
            ..Outcomes::default()
        };
        let report = Report {
            outage: Some("y".repeat(600)),
            exposed: Some("z\n".repeat(300)),
            loopback_only: true,
            outcomes,
            ..heard("a\nb")
        };
        reports.note(key(), &serde_json::to_vec(&report).unwrap());
        let found = reports.availability(&key()).unwrap();
        let Some(Exposure::Address(address)) = found.exposure else { panic!("{found:?}") };
        assert_eq!((found.why.len(), address.len()), (MAX_TEXT, MAX_TEXT));
        let found = reports.deliveries(&key()).unwrap();
        assert_eq!(found.events, 20);
        let failure = found.last_failure.unwrap();
        assert!(failure.time < jiff::Timestamp::now().to_string(), "{}", failure.time);
        assert_eq!((failure.event_id.as_str(), failure.error.len()), ("1 [2J", MAX_TEXT));
        assert!(lock(&reports.heard)[&key()].pods.contains_key("a b"));
        for pod in 0..2 * PODS_LIMIT {
            reports.note(key(), &self::report(&pod.to_string(), None));
        }
        assert_eq!(reports.availability(&key()).unwrap().pods, PODS_LIMIT);
        assert!(lock(&reports.heard)[&key()].pods.len() <= PODS_LIMIT);
    }

    #[test]
    fn how_pods_of_an_older_template_deliver_says_nothing_about_the_new_one() {
        let reports = Reports::default();
        let failing = |pod: &str| {
            let outcomes = Outcomes { failing: Some(Failing { events: 5, refused: true }), ..Outcomes::default() };
            serde_json::to_vec(&Report { outcomes, ..heard(pod) }).unwrap()
        };
        reports.note_template(&key(), 1);
        reports.note(key(), &failing("a"));
        assert!(reports.deliveries(&key()).unwrap().are_failing());
        reports.note_template(&key(), 1);
        assert!(reports.deliveries(&key()).is_some());
        reports.note_template(&key(), 2);
        reports.note(key(), &failing("a"));
        assert_eq!(reports.deliveries(&key()), None);
        reports.note(key(), &report("b", None));
        assert!(!reports.deliveries(&key()).unwrap().are_failing());
        reports.note(key(), &failing("b"));
        assert!(reports.deliveries(&key()).unwrap().are_failing());
    }

    #[test]
    fn one_pod_that_others_can_reach_is_enough_and_of_silence_nothing_is_known() {
        let (open, local) = (Some("0.0.0.0:80"), None);
        for (pods, expected) in [
            (vec![], None),
            (vec![(local, false)], None),
            (vec![(local, false), (local, true)], Some(Exposure::Loopback)),
            (vec![(local, true), (open, false)], Some(Exposure::Address("0.0.0.0:80".into()))),
            (vec![(open, true)], Some(Exposure::Address("0.0.0.0:80".into()))),
        ] {
            let reports = Reports::default();
            for (number, (exposed, loopback_only)) in pods.iter().enumerate() {
                let exposed = exposed.map(Into::into);
                let report = Report { exposed, loopback_only: *loopback_only, ..heard(&number.to_string()) };
                reports.note(key(), &serde_json::to_vec(&report).unwrap());
            }
            assert_eq!(reports.availability(&key()).and_then(|found| found.exposure), expected, "{pods:?}");
        }
    }

    #[test]
    fn what_is_no_report_is_nothing() {
        let reports = Reports::default();
        reports.note(key(), b"{}");
        reports.note(key(), &report(&"x".repeat(SIZE_LIMIT), None));
        assert_eq!(reports.availability(&key()), None);
    }
}
