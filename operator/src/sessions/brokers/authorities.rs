//! The newest root of trust of each broker: the operator's connections outlive certificate authorities, and whenever one is
//! made again, it is with what is newest then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_broker_admin::Authority;
use tidegate_broker_client::identity::Unreadable;

use super::BrokerKey;

/// The newest that was seen of each broker.
#[derive(Default)]
pub(super) struct Authorities(Mutex<HashMap<BrokerKey, Authority>>);

impl Authorities {
    /// This was seen; somebody else may have seen a newer one.
    pub(super) fn note(&self, broker: &BrokerKey, seen: &Authority) {
        let is_older =
            |known: &Authority| known.root != seen.root || known.rollover.generation < seen.rollover.generation;
        let mut all = self.lock();
        if all.get(broker).is_none_or(is_older) {
            all.insert(broker.clone(), seen.clone());
        }
    }

    /// Forgets all other brokers.
    pub(super) fn keep(&self, is_alive: impl Fn(&BrokerKey) -> bool) {
        self.lock().retain(|broker, _| is_alive(broker));
    }

    fn newest(&self, broker: &BrokerKey) -> Option<Authority> {
        self.lock().get(broker).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BrokerKey, Authority>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest of one broker, at any time.
#[derive(Clone)]
pub(super) struct Keys {
    all: Arc<Authorities>,
    broker: BrokerKey,
}

impl Keys {
    pub(super) fn new(all: &Arc<Authorities>, broker: &BrokerKey) -> Self {
        Self { all: all.clone(), broker: broker.clone() }
    }

    pub(super) fn broker(&self) -> &BrokerKey {
        &self.broker
    }

    /// What there is now.
    ///
    /// # Errors
    /// The broker is gone.
    pub(super) fn newest(&self) -> Result<Authority, Unreadable> {
        self.all.newest(&self.broker).ok_or_else(|| Unreadable::new("operator", "its broker is gone"))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_broker_admin::rollover::Cause;
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn the_newest_counts_whoever_saw_it_last() {
        let broker = BrokerKey { namespace: "shop".into(), name: "default".into() };
        let now = OffsetDateTime::now_utc();
        let first = Authority::generate("default", now).unwrap();
        let second = first.begin("default", &Cause::End, now).unwrap();
        let all = Arc::new(Authorities::default());
        let keys = Keys::new(&all, &broker);
        let generation = || keys.newest().map(|newest| newest.rollover.generation).ok();
        assert_eq!(generation(), None);
        for (seen, newest) in [(&first, 0), (&second, 1), (&first, 1)] {
            all.note(&broker, seen);
            assert_eq!(generation(), Some(newest));
        }
        let another = Authority::generate("default", now).unwrap();
        all.note(&broker, &another);
        assert_eq!(keys.newest().unwrap().root, another.root, "of a broker that was made again");
        all.keep(|_| false);
        assert_eq!(generation(), None);
    }
}
