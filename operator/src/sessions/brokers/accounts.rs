//! Which accounts a broker has, as far as the operator has to know, and what that of its ingresses has of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tidegate_broker_admin::push::AccountState;
use tidegate_broker_admin::{Authority, AuthorityError};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

/// The account of the ingresses is compared with what the servers have this often, as long as the same is wanted: it is
/// large, and every reconcile of a topic comes by. At rest the session with the broker does.
const COMPARE_PERIOD: Duration = Duration::from_secs(60);

/// What is known.
#[derive(Default)]
pub(super) struct Known {
    /// Ids of the accounts that the servers have.
    ids: HashSet<String>,
    /// The ids of topics' accounts, whether they are there or not: each is derived once.
    of_topics: HashMap<TopicId, String>,
    /// What the account of the ingresses is known to have.
    served: Option<Served>,
    /// How often a topic's account was pushed.
    changes: Changes,
    /// The same when the account of the ingresses was pushed last.
    pushed: Changes,
}

struct Served {
    /// The topics of which it has something, sorted.
    topics: Vec<(TopicId, Routing)>,
    /// When that is to be compared: soon after a push, because a server that was loading the account then may serve a
    /// former one.
    due: Instant,
    /// What had been pushed before that.
    changes: Changes,
}

impl Served {
    /// Whether it has something of this topic.
    fn has(&self, topic: &TopicId, routing: Routing) -> bool {
        let found = self.topics.binary_search_by(|(known, _)| known.cmp(topic));
        found.is_ok_and(|at| self.topics[at].1 == routing)
    }
}

/// How often the account of a topic was pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In all: servers that had lost one may have lost that of the ingresses, too.
    all: u64,
    /// In the place of one that was known: the account of the ingresses may have something of the older one.
    replaced: u64,
}

/// What has to be done for the account of the ingresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It was seen lately as it is wanted.
    Nothing,
    /// It is compared with what the servers have.
    Compare,
    /// It is pushed, whatever the servers have.
    Push,
}

impl Known {
    /// With these accounts, by their ids.
    pub(super) fn new(ids: HashSet<String>) -> Self {
        Self { ids, ..Self::default() }
    }
}

/// The accounts that a broker has. Not held while the servers are asked for something.
pub struct KnownAccounts<'a>(pub(super) MutexGuard<'a, Option<Known>>);

impl KnownAccounts<'_> {
    /// Whether the broker has this account.
    pub fn has(&self, id: &str) -> bool {
        self.0.as_ref().is_some_and(|known| known.ids.contains(id))
    }

    /// It has it from now on. `is_changed`: it was pushed just now.
    pub fn add(&mut self, id: String, is_changed: bool) {
        let known = self.0.get_or_insert_default();
        let was_there = !known.ids.insert(id);
        known.changes.all += u64::from(is_changed);
        known.changes.replaced += u64::from(is_changed && was_there);
    }

    /// It has it no longer.
    pub fn remove(&mut self, id: &str) {
        if let Some(known) = self.0.as_mut() {
            known.ids.remove(id);
        }
    }

    /// The id of a topic's account.
    ///
    /// # Errors
    /// The authority is damaged.
    pub fn id_of(&mut self, authority: &Authority, topic: &TopicId) -> Result<String, AuthorityError> {
        let known = self.0.get_or_insert_default();
        if let Some(id) = known.of_topics.get(topic) {
            return Ok(id.clone());
        }
        let id = authority.topic_account_id(topic)?;
        known.of_topics.insert(topic.clone(), id.clone());
        Ok(id)
    }

    /// What has to be done so that the account of the ingresses has something of just these. Until that is said to be done
    /// ([`Self::set_served`], with the changes that are answered here), nothing is known of it: a push that fails may have
    /// reached some of the servers.
    pub fn begin(&mut self, topics: &[(TopicId, Routing)]) -> (Due, Changes) {
        let known = self.0.get_or_insert_default();
        let due = known.due(topics);
        if due != Due::Nothing {
            known.served = None;
        }
        (due, known.changes)
    }

    /// Whether it was seen lately that the account of the ingresses has something of this topic.
    pub fn serves(&self, topic: &TopicId, routing: Routing) -> bool {
        let Some(known) = self.0.as_ref() else { return false };
        known.served.as_ref().is_some_and(|served| known.is_current(served) && served.has(topic, routing))
    }

    /// Whether it has been as it was wanted, and has to be compared.
    pub fn is_due(&self) -> bool {
        let served = self.0.as_ref().and_then(|known| known.served.as_ref());
        served.is_some_and(|served| Instant::now() >= served.due)
    }

    /// It has something of just these, and was compared or pushed after these changes, with this outcome.
    pub fn set_served(&mut self, topics: Vec<(TopicId, Routing)>, changes: Changes, state: AccountState) {
        let known = self.0.get_or_insert_default();
        let kept: HashSet<&TopicId> = topics.iter().map(|(topic, _)| topic).collect();
        known.of_topics.retain(|id, _| kept.contains(id));
        known.pushed = changes;
        let due = Instant::now() + state.again().unwrap_or(COMPARE_PERIOD).min(COMPARE_PERIOD);
        known.served = Some(Served { topics, due, changes });
    }
}

impl Known {
    fn is_current(&self, served: &Served) -> bool {
        self.changes.replaced == self.pushed.replaced && served.changes == self.changes && Instant::now() < served.due
    }

    fn due(&self, topics: &[(TopicId, Routing)]) -> Due {
        if self.changes.replaced != self.pushed.replaced {
            return Due::Push;
        }
        match &self.served {
            Some(served) if served.topics != topics => Due::Push,
            Some(served) if self.is_current(served) => Due::Nothing,
            Some(_) | None => Due::Compare,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_broker_admin::push::SETTLED;

    use super::*;

    fn topics(names: &[&str]) -> Vec<(TopicId, Routing)> {
        names.iter().map(|name| (TopicId::new("shop", *name).unwrap(), Routing::Queued)).collect()
    }

    #[tokio::test]
    async fn a_push_that_fails_is_taken_for_nothing() {
        let lock = tokio::sync::Mutex::new(Some(Known::default()));
        let mut accounts = KnownAccounts(lock.lock().await);
        accounts.add("A".into(), true);
        let (due, changes) = accounts.begin(&topics(&["a"]));
        assert_eq!(due, Due::Compare, "it is not known what the servers have");
        accounts.set_served(topics(&["a"]), changes, AccountState::InForce);
        assert_eq!(accounts.begin(&topics(&["a"])).0, Due::Nothing);
        let [(a, queued)] = &topics(&["a"])[..] else { unreachable!() };
        assert!(accounts.serves(a, *queued));
        assert!(!accounts.serves(a, Routing::Direct) && !accounts.serves(&TopicId::new("shop", "b").unwrap(), *queued));
        accounts.add("A".into(), true);
        assert!(!accounts.serves(a, *queued), "it was pushed, and the account has something of an older one");
        let (_, changes) = accounts.begin(&topics(&["a"]));
        accounts.set_served(topics(&["a"]), changes, AccountState::InForce);
        assert_eq!(accounts.begin(&topics(&["a", "b"])).0, Due::Push);
        assert_eq!(accounts.begin(&topics(&["a"])).0, Due::Compare, "some servers may have both");
    }

    #[tokio::test]
    async fn an_account_that_is_replaced_while_a_push_is_under_way_is_in_none_yet() {
        let lock = tokio::sync::Mutex::new(Some(Known::default()));
        let mut accounts = KnownAccounts(lock.lock().await);
        accounts.add("A".into(), false);
        let (_, before) = accounts.begin(&topics(&["a"]));
        accounts.add("A".into(), true);
        accounts.set_served(topics(&["a"]), before, AccountState::InForce);
        let (due, changes) = accounts.begin(&topics(&["a"]));
        assert_eq!(due, Due::Push, "and stays so when that fails");
        assert_eq!(accounts.begin(&topics(&["a"])).0, Due::Push);
        accounts.set_served(topics(&["a"]), changes, AccountState::InForce);
        assert_eq!(accounts.begin(&topics(&["a"])).0, Due::Nothing);
        accounts.add("B".into(), true);
        assert_eq!(accounts.begin(&topics(&["a"])).0, Due::Compare);
    }
    #[tokio::test(start_paused = true)]
    async fn what_was_pushed_is_compared_soon_and_then_seldom() {
        let lock = tokio::sync::Mutex::new(Some(Known::default()));
        let mut accounts = KnownAccounts(lock.lock().await);
        let not_served = |seconds| AccountState::NotServed { push_in: Duration::from_secs(seconds) };
        for (state, period) in [
            (AccountState::Pushed, SETTLED),
            (AccountState::InForce, COMPARE_PERIOD),
            (not_served(4), Duration::from_secs(4)),
            (not_served(600), COMPARE_PERIOD),
        ] {
            let (_, changes) = accounts.begin(&topics(&["a"]));
            accounts.set_served(topics(&["a"]), changes, state);
            tokio::time::advance(period - Duration::from_millis(1)).await;
            assert_eq!((accounts.is_due(), accounts.begin(&topics(&["a"])).0), (false, Due::Nothing));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(accounts.is_due());
            assert_eq!(accounts.begin(&topics(&["a"])).0, Due::Compare);
        }
    }
}
