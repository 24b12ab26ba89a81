//! Names in the account of a broker's ingresses, which serves all topics of the broker.
//!
//! | subject there | what it is in the topic's account | used for |
//! |---|---|---|
//! | `topic.<namespace>.<name>.write.<suffix>` | `ingress.write.<suffix>`, mapped to what [`WRITES`] says | writing events
//! and all that goes with it |
//! | `topic.<namespace>.<name>.pull` | `ingress.pull`, mapped to a pull of what is due | moving delayed events |
//! | `direct.<namespace>.<name>.events.>` | – | events of a Direct topic: its handlers import them from here |
//! | `topic.<namespace>.<name>.write.report` | – | the operator hears that events of the topic cannot be stored |
//! | `publish.<namespace>.<topic>.<publisher>` | – | a publisher's `publish`, whose account imports it |
//! | `reports.<namespace>.<topic>.<handler>` | – | a handler's `reports.<handler>`, whose account imports it; the operator hears it |
//! | `ingress.topics` | – | the operator asks which topics are served |
//!
//! An ingress has nothing of a topic but the first two, which are imports. What they reach is decided by the mappings of
//! the topic's account: a suffix that is not in [`WRITES`] reaches nothing.
//!
//! The operator hears reports of all topics here, and that an event comes for a handler that sleeps, so that it needs no
//! connection for each topic. It hears what an ingress publishes for an import as any other subscriber of this account.
//!
//! Events of a Direct topic do not pass its account: a server does not pass on to a stream import what came through a
//! service import (`processMsgResults` of nats-server).

use super::EVENT_SUBJECTS;
use crate::contract::Routing;
use crate::later;
use crate::topic_id::TopicId;

/// What an ingress may write, inside a topic's account.
pub const WRITE_SUBJECTS: &str = "ingress.write.>";
/// Where an ingress asks for what is due, inside a topic's account. Its answers are many.
pub const PULL_SUBJECT: &str = "ingress.pull";
/// Where each ingress of a broker answers which topics it serves.
pub const TOPICS_SUBJECT: &str = "ingress.topics";
/// What publishers over NATS send, as it comes to the ingresses.
pub const PUBLISHES: &str = "publish.*.*.*";
/// What the sidecars of all handlers report.
pub const REPORTS: &str = "reports.*.*.*";
/// What ingresses report of all topics.
pub const INGRESS_REPORTS: &str = "topic.*.*.write.report";
/// What ingresses write of all topics: the operator hears the first event for a handler that sleeps.
pub const ALL_WRITES: &str = "topic.*.*.write.>";
/// Events of all Direct topics.
pub const DIRECT_SUBJECTS: &str = "direct.*.*.events.>";
/// The ingress's permissions: its account has nothing but the imports that these cover.
pub const TOPIC_SUBJECTS: [&str; 3] = ["topic.*.*.write.>", "topic.*.*.pull", DIRECT_SUBJECTS];

/// What becomes of an ingress's writes in an account of a topic that stores events: suffix and subject.
pub const WRITES: [(&str, &str); 5] = [
    (EVENT_SUBJECTS, EVENT_SUBJECTS),
    ("delayed.*", "later.delayed.$1"),
    ("due.acknowledge.>", later::ACKNOWLEDGE_SUBJECTS),
    ("later.info", later::INFO_SUBJECT),
    ("later.purge", later::PURGE_SUBJECT),
];

/// The mappings of a topic's account: what an ingress asks for, and what that is.
pub fn mappings(routing: Routing) -> Vec<(String, &'static str)> {
    if routing == Routing::Direct {
        return Vec::new();
    }
    let write = |(suffix, subject): &(&str, &'static str)| (format!("ingress.write.{suffix}"), *subject);
    WRITES.iter().map(write).chain([(PULL_SUBJECT.to_owned(), later::PULL_SUBJECT)]).collect()
}

/// Where the events of a Direct topic are, for its handlers to import.
pub fn direct_events(topic: &TopicId) -> String {
    format!("{}{EVENT_SUBJECTS}", direct_prefix(topic))
}

fn direct_prefix(topic: &TopicId) -> String {
    format!("direct.{}.{}.", topic.namespace(), topic.name())
}

/// The subjects of one topic in the account of the ingresses. They are made once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSubjects {
    events: String,
    write: String,
    pull: String,
}

impl TopicSubjects {
    /// Of this topic.
    pub fn new(topic: &TopicId, routing: Routing) -> Self {
        let prefix = format!("topic.{}.{}", topic.namespace(), topic.name());
        let write = format!("{prefix}.write.");
        let events = match routing {
            Routing::Queued => write.clone(),
            Routing::Direct => direct_prefix(topic),
        };
        Self { events, write, pull: format!("{prefix}.pull") }
    }

    /// All writes, as the import names them.
    pub fn writes(&self) -> String {
        format!("{}>", self.write)
    }

    /// All events of the topic, as they are written.
    pub fn events(&self) -> String {
        format!("{}{EVENT_SUBJECTS}", self.events)
    }

    /// What an event of this [subject](super::event_subject) is sent to.
    pub fn event(&self, subject: &str) -> String {
        join(&self.events, subject)
    }

    /// Where an event with this [key](crate::message_id::TopicKey::cancel_key) waits.
    pub fn delayed(&self, key: &str) -> String {
        self.write_to(&format!("delayed.{key}"))
    }

    /// Where what was due is acknowledged, from the reply subject that it came with; `None`: it is of something else.
    pub fn acknowledge(&self, reply: &str) -> Option<String> {
        let prefix = later::ACKNOWLEDGE_SUBJECTS.strip_suffix('>')?;
        reply.strip_prefix(prefix).map(|rest| self.write_to(&format!("due.acknowledge.{rest}")))
    }

    /// Where it is reported that events cannot be stored.
    pub fn report(&self) -> String {
        self.write_to("report")
    }

    /// Where the stream `later` is asked for its state.
    pub fn later_info(&self) -> String {
        self.write_to("later.info")
    }

    /// Where an event that waits is cancelled.
    pub fn later_purge(&self) -> String {
        self.write_to("later.purge")
    }

    /// Where what is due is asked for.
    pub fn pull(&self) -> &str {
        &self.pull
    }

    fn write_to(&self, suffix: &str) -> String {
        join(&self.write, suffix)
    }
}

fn join(prefix: &str, suffix: &str) -> String {
    let mut subject = String::with_capacity(prefix.len() + suffix.len());
    subject.push_str(prefix);
    subject.push_str(suffix);
    subject
}

/// What a publisher over NATS sends, as it comes to the ingresses. In the publisher's account it is `publish`.
pub fn publish_subject(topic: &TopicId, publisher: &str) -> String {
    format!("publish.{}.{}.{publisher}", topic.namespace(), topic.name())
}

/// The topic and the publisher of a [`publish_subject`]; `None`: it is another subject.
pub fn publisher_of(subject: &str) -> Option<(TopicId, &str)> {
    guest_of("publish", subject)
}

/// Where a handler reports, as it comes to the operator; `handler`: its name in its topic's account. In the handler's
/// account it is its [`report_subject`](super::report_subject).
pub fn report_subject(topic: &TopicId, handler: &str) -> String {
    format!("reports.{}.{}.{handler}", topic.namespace(), topic.name())
}

/// The topic and the handler of a [`report_subject`]; `None`: it is another subject.
pub fn reporter_of(subject: &str) -> Option<(TopicId, &str)> {
    guest_of("reports", subject)
}

/// The topic that ingresses report of; `None`: the subject is none of [`INGRESS_REPORTS`].
pub fn reported_topic(subject: &str) -> Option<TopicId> {
    let (topic, suffix) = guest_of("topic", subject.strip_suffix(".report")?)?;
    (suffix == "write").then_some(topic)
}

/// Of `<kind>.<namespace>.<topic>.<guest>`.
fn guest_of<'a>(kind: &str, subject: &'a str) -> Option<(TopicId, &'a str)> {
    let mut tokens = subject.strip_prefix(kind)?.strip_prefix('.')?.splitn(3, '.');
    let (namespace, name, guest) = (tokens.next()?, tokens.next()?, tokens.next()?);
    let is_token = !guest.is_empty() && !guest.contains('.');
    TopicId::new(namespace, name).ok().filter(|_| is_token).map(|topic| (topic, guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> TopicId {
        TopicId::new("shop", "orders").unwrap()
    }

    #[test]
    fn all_that_an_ingress_writes_is_mapped() {
        let subjects = TopicSubjects::new(&topic(), Routing::Queued);
        let acknowledge = subjects.acknowledge("$JS.ACK.later.ingress.1.2.3.4.5").unwrap();
        assert_eq!(subjects.acknowledge("$JS.ACK.events.billing.1.2.3.4.5"), None);
        assert_eq!(subjects.events(), "topic.shop.orders.write.events.>");
        let written = [
            subjects.event("events.3.com.shop.order"),
            subjects.delayed("key"),
            acknowledge,
            subjects.later_info(),
            subjects.later_purge(),
        ];
        let mapped = mappings(Routing::Queued);
        for (written, (from, _)) in written.iter().zip(&mapped) {
            let from = from.strip_prefix("ingress.").unwrap().trim_end_matches(['*', '>']);
            assert!(written.starts_with(&format!("topic.shop.orders.{from}")), "{written} {from}");
        }
        assert_eq!(mapped.last().unwrap(), &(PULL_SUBJECT.to_owned(), later::PULL_SUBJECT));
        assert_eq!(mapped.len(), WRITES.len() + 1);
        assert_eq!(subjects.pull(), "topic.shop.orders.pull");
        assert_eq!(mappings(Routing::Direct), []);
        let direct = TopicSubjects::new(&topic(), Routing::Direct).event("events.3.com.shop.order");
        assert_eq!(direct, "direct.shop.orders.events.3.com.shop.order");
        assert_eq!(direct_events(&topic()), "direct.shop.orders.events.>");
    }

    #[test]
    fn a_publishers_subject_names_it_and_its_topic() {
        let subject = publish_subject(&topic(), "till-1");
        assert_eq!(subject, "publish.shop.orders.till-1");
        assert_eq!(publisher_of(&subject), Some((topic(), "till-1")));
        for other in ["publish", "publish.a.b", "publish.a.b.", "publish.a.b.c.d", "publish..b.c", "topic.a.b.c", ""] {
            assert_eq!(publisher_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_report_names_its_handler_or_its_topic() {
        let subject = report_subject(&topic(), "billing=crm");
        assert_eq!(reporter_of(&subject), Some((topic(), "billing=crm")));
        assert_eq!(reporter_of("publish.shop.orders.billing"), None);
        assert_eq!(reported_topic(&TopicSubjects::new(&topic(), Routing::Queued).report()), Some(topic()));
        for other in ["topic.shop.orders.report", "topic.shop.orders.write.x", "topic.shop.write.report", ".report"] {
            assert_eq!(reported_topic(other), None, "{other}");
        }
    }
}
