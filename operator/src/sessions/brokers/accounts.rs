//! Which accounts a broker has, as far as the operator has to know, and what that of its ingresses has of them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tidegate_broker_admin::{Authority, AuthorityError};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tokio::sync::MutexGuard;

/// The account of the ingresses is compared with what the servers have this often, as long as the same is wanted: it is
/// large, and every reconcile of a topic comes by.
const COMPARE_PERIOD: Duration = Duration::from_secs(60);

/// What is known.
#[derive(Default)]
pub(super) struct Known {
    /// Ids of the accounts that the servers have.
    ids: HashSet<String>,
    /// The ids of topics' accounts, whether they are there or not: each is derived once.
    of_topics: HashMap<TopicId, String>,
    /// Of which topics the account of the ingresses has something, and when that was compared.
    served: Option<(Vec<(TopicId, Routing)>, Instant)>,
}

impl Known {
    /// With these accounts, by their ids.
    pub(super) fn new(ids: HashSet<String>) -> Self {
        Self { ids, ..Self::default() }
    }
}

/// The accounts that a broker has. Held while that of the ingresses is changed, which has something of every topic.
pub struct KnownAccounts<'a>(pub(super) MutexGuard<'a, Option<Known>>);

impl KnownAccounts<'_> {
    /// Whether the broker has this account.
    pub fn has(&self, id: &str) -> bool {
        self.0.as_ref().is_some_and(|known| known.ids.contains(id))
    }

    /// It has it from now on. Whether it had it before.
    pub fn add(&mut self, id: String) -> bool {
        self.0.as_mut().is_some_and(|known| !known.ids.insert(id))
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

    /// Whether the account of the ingresses was seen lately to have something of just these.
    pub fn are_served(&self, topics: &[(TopicId, Routing)]) -> bool {
        let served = self.0.as_ref().and_then(|known| known.served.as_ref());
        served.is_some_and(|(served, at)| served == topics && at.elapsed() < COMPARE_PERIOD)
    }

    /// It has something of just these.
    pub fn set_served(&mut self, topics: Vec<(TopicId, Routing)>) {
        let known = self.0.get_or_insert_default();
        let kept: HashSet<&TopicId> = topics.iter().map(|(topic, _)| topic).collect();
        known.of_topics.retain(|id, _| kept.contains(id));
        known.served = Some((topics, Instant::now()));
    }
}
