//! Who published what to a topic, and who was refused: a line of the log for each publisher and minute.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_broker_client::TopicId;
use tidegate_publisher_auth::Publisher;

use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::topics::Topics;

/// How often lines are written.
const PERIOD: Duration = Duration::from_secs(60);
/// Maximum number of publishers of a topic that have lines of their own in a period.
const MAX_PUBLISHERS: usize = 256;
/// Whoever comes after them.
const OTHERS: &str = "(others)";
/// Whoever did not prove who they are, where that is needed.
const UNKNOWN: &str = "(unauthenticated)";
/// The name in metrics of how those are known.
const UNKNOWN_KIND: &str = "none";

/// What is counted of a topic, until it is written.
pub struct Audit {
    topic: TopicId,
    metrics: Arc<Metrics>,
    publishers: Mutex<HashMap<String, Counts>>,
}

/// What a publisher did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    published: u64,
    /// Delayed events.
    cancelled: u64,
    /// Requests or events that were refused, by the kind of the problem.
    refused: BTreeMap<&'static str, u64>,
}

impl Audit {
    /// Nothing yet.
    pub fn new(topic: TopicId, metrics: Arc<Metrics>) -> Self {
        Self { topic, metrics, publishers: Mutex::default() }
    }

    /// A publisher sent something, and this became of it: so many events were published, or one request or event was not
    /// taken. `None`: it is not known who it was.
    pub fn record(&self, publisher: Option<&Publisher>, outcome: Result<usize, &Problem>) {
        let (name, kind) = publisher.map_or((UNKNOWN, UNKNOWN_KIND), |known| (known.as_str(), known.kind().label()));
        let events = u64::try_from(*outcome.as_ref().unwrap_or(&1)).unwrap_or(u64::MAX);
        let refused = outcome.err().map(|problem| problem.kind);
        self.metrics.publisher(kind, refused, events);
        self.count(name, |counts| counts.add(events, refused));
    }

    /// A publisher cancelled a delayed event.
    pub fn cancelled(&self, publisher: &Publisher) {
        self.count(publisher.as_str(), |counts| counts.cancelled += 1);
    }

    fn count(&self, name: &str, add: impl FnOnce(&mut Counts)) {
        let mut publishers = self.lock();
        if let Some(counts) = publishers.get_mut(name) {
            return add(counts);
        }
        let name = if publishers.len() < MAX_PUBLISHERS { name } else { OTHERS };
        add(publishers.entry(name.to_owned()).or_default());
    }

    /// Writes what was counted, and begins again.
    pub fn write(&self) {
        let publishers = std::mem::take(&mut *self.lock());
        for (publisher, counts) in publishers {
            let (topic, refused, reasons) = (&self.topic, counts.refused.values().sum::<u64>(), counts.reasons());
            let Counts { published, cancelled, .. } = counts;
            tracing::info!(%topic, publisher, published, cancelled, refused, reasons, "publisher audit");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Counts>> {
        self.publishers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.write();
    }
}

impl Counts {
    fn add(&mut self, events: u64, refused: Option<&'static str>) {
        match refused {
            Some(kind) => *self.refused.entry(kind).or_default() += events,
            None => self.published += events,
        }
    }

    /// `kind=count`, separated by spaces.
    fn reasons(&self) -> String {
        self.refused.iter().fold(String::new(), |mut text, (kind, count)| {
            let space = if text.is_empty() { "" } else { " " };
            // A String takes everything.
            let _ = write!(text, "{space}{kind}={count}");
            text
        })
    }
}

/// Writes the lines of all topics, again and again. Never returns.
pub async fn write_periodically(topics: Arc<Topics>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        topics.write_audit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Instruments;

    fn audit() -> Audit {
        let topic = TopicId::new("shop", "orders").unwrap();
        let metrics = Metrics::new(Arc::new(Instruments::new()), &topic);
        Audit::new(topic, Arc::new(metrics))
    }

    #[test]
    fn a_publisher_has_one_line_with_what_became_of_its_events() {
        let (audit, till) = (audit(), Publisher::nats("till"));
        audit.record(Some(&till), Ok(3));
        audit.record(Some(&till), Ok(1));
        audit.record(Some(&till), Err(&Problem::overloaded()));
        audit.record(Some(&till), Err(&Problem::not_allowed(&till)));
        audit.record(Some(&till), Err(&Problem::not_allowed(&till)));
        audit.record(None, Err(&Problem::unauthenticated(None)));
        audit.cancelled(&till);
        let counted = audit.lock();
        let till = &counted["nats:till"];
        assert_eq!((counted.len(), till.published, till.cancelled), (2, 4, 1));
        assert_eq!(counted["nats:till"].reasons(), "not-allowed=2 overloaded=1");
        assert_eq!(counted[UNKNOWN].reasons(), "unauthenticated=1");
        drop(counted);
        audit.write();
        assert!(audit.lock().is_empty());
    }

    #[test]
    fn publishers_are_bounded() {
        let audit = audit();
        for number in 0..MAX_PUBLISHERS * 2 {
            audit.record(Some(&Publisher::nats(&number.to_string())), Ok(1));
        }
        let counted = audit.lock();
        assert_eq!(counted.len(), MAX_PUBLISHERS + 1);
        assert_eq!(counted[OTHERS].published, u64::try_from(MAX_PUBLISHERS).unwrap());
    }
}
