//! How many keys of each handler wait behind a failed event, and which are held until a person releases them, as its
//! topic's broker said last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use tidegate_broker_admin::held_keys::Keys;

use crate::sessions::by_handler::{ByHandler, HandlerKey, STATUS_PERIOD};

/// Keys of each handler with `order: Key`.
#[derive(Default)]
pub struct KeyTracker {
    looks: ByHandler<Option<Look>>,
    /// How often something of them has expired.
    expired: AtomicU64,
}

/// A question to the broker that is under way. What expires meanwhile makes its answer worthless.
pub(crate) struct Question(u64);

/// What was found, and when.
struct Look {
    keys: Keys,
    /// Subjects that the handler's stream of retries had.
    subjects: u64,
    at: Instant,
}

impl KeyTracker {
    /// The keys of a handler; `None`: the broker has not said yet.
    pub fn known(&self, handler: &HandlerKey) -> Option<Keys> {
        self.looks.get(handler, |look| look.as_ref().map(|look| look.keys.clone()))?
    }

    /// To be taken before the broker is asked for the keys of a handler, whose stream of retries has so many subjects
    /// now; `None`: what is known suffices.
    pub(crate) fn question(&self, handler: &HandlerKey, subjects: u64) -> Option<Question> {
        let is_due = |look: &Look| is_due(look, subjects, look.at.elapsed());
        let is_due = self.looks.get(handler, |look| look.as_ref().is_none_or(is_due)).unwrap_or(true);
        is_due.then(|| Question(self.expired.load(Ordering::Acquire)))
    }

    /// Takes down what the broker said, when the stream had so many subjects.
    pub(crate) fn record(&self, question: &Question, handler: HandlerKey, subjects: u64, keys: Keys) {
        self.looks.record(handler, |look, _| {
            if self.expired.load(Ordering::Acquire) == question.0 {
                *look = Some(Look { keys, subjects, at: Instant::now() });
            }
            false
        });
    }

    /// What is known of a handler's keys is no longer so: the broker is asked the next time.
    pub(crate) fn expire(&self, handler: &HandlerKey) {
        self.expired.fetch_add(1, Ordering::AcqRel);
        self.looks.keep(|known| known != handler);
    }

    /// Forgets every handler that no longer exists.
    pub(crate) fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        self.looks.keep(is_alive);
    }
}

/// Numbers that move wait for their time. That a key is held where none was may not be late, and it costs little to find
/// out: each key has a subject of its own, and the broker counts none. That none waits any more is known without asking.
fn is_due(known: &Look, subjects: u64, age: Duration) -> bool {
    age >= STATUS_PERIOD || (known.subjects != subjects && (known.keys.held == 0 || subjects == 0))
}

/// Exports them as `tidegate.handler.keys`: two series for each handler with `order: Key`.
pub fn export(keys: &Arc<KeyTracker>) {
    let keys = Arc::clone(keys);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.handler.keys")
        .with_unit("{key}")
        .with_description("Keys of a handler of which events wait behind a failed one")
        .with_callback(move |gauge| {
            keys.looks.for_each(|[namespace, handler], look| {
                let Some(Look { keys, .. }) = look else { return };
                for (state, number) in [("parked", keys.parked), ("held", keys.held)] {
                    gauge.observe(number, &[namespace.clone(), handler.clone(), KeyValue::new("state", state)]);
                }
            });
        })
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(held: u64) -> Keys {
        Keys { parked: 5, held, named: Vec::new() }
    }

    #[test]
    fn the_broker_is_asked_at_once_for_the_first_held_key_and_else_once_a_minute() {
        let second = Duration::from_secs(1);
        for (held, subjects, age, expected) in [
            (0, 8, second, false),
            (0, 9, second, true),
            (0, 7, second, true),
            (3, 8, second, false),
            (3, 9, second, false),
            (3, 0, second, true),
            (0, 8, STATUS_PERIOD, true),
            (3, 8, STATUS_PERIOD, true),
        ] {
            let known = Look { keys: keys(held), subjects: 8, at: Instant::now() };
            assert_eq!(is_due(&known, subjects, age), expected, "{held} {subjects} {age:?}");
        }
    }

    #[test]
    fn what_was_found_is_known_until_it_expires() {
        let (tracker, key) = (KeyTracker::default(), || ("shop".to_owned(), "billing".to_owned()));
        let is_due = |subjects| tracker.question(&key(), subjects).is_some();
        let ask = |subjects| tracker.question(&key(), subjects).unwrap();
        assert!(is_due(0) && tracker.known(&key()).is_none());
        tracker.record(&ask(7), key(), 7, keys(0));
        assert!(!is_due(7) && is_due(8));
        assert_eq!(tracker.known(&key()), Some(keys(0)));
        tracker.record(&ask(8), key(), 8, keys(1));
        assert!(!is_due(9));
        tracker.expire(&("shop".to_owned(), "other".to_owned()));
        assert!(!is_due(9));
        tracker.expire(&key());
        assert!(is_due(8) && tracker.known(&key()).is_none());
    }

    /// Marks are removed while the broker is asked: its answer may be from before.
    #[test]
    fn an_answer_to_a_question_from_before_is_not_used() {
        let (tracker, key) = (KeyTracker::default(), || ("shop".to_owned(), "billing".to_owned()));
        let question = tracker.question(&key(), 7).unwrap();
        tracker.expire(&key());
        tracker.record(&question, key(), 7, keys(1));
        assert!(tracker.known(&key()).is_none() && tracker.question(&key(), 7).is_some());
    }
}
