//! Accounts to running servers: requests of the system account to the `full` resolver.
//!
//! Every server answers for itself. A majority must have an account for it to be in force: one that was away asks
//! for what it has never seen, and every reconcile compares again. Only a removal needs all of them, because a
//! server that missed it would bring the account back to the others.
//!
//! What a server stores is not always what it serves: where an account is pushed while the server loads it (somebody
//! connects to it for the first time since the server's start), nats-server 2.15.2 may go on with the account that it
//! began to load, for as long as it runs (docs/brokers.md, "Accounts of a broker").

mod vain;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tidegate_broker_client::TopicId;
use tidegate_wire::nats::Client;
use time::OffsetDateTime;
use tokio::time::Instant;

use self::vain::Pushes;
use crate::accounts::Account;
use crate::authority::{Authority, AuthorityError};
use crate::gather::{Count, gather};

/// How long a request waits for the servers.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A server that was loading an account when it was pushed has loaded it by then.
pub const SETTLED: Duration = Duration::from_secs(10);

/// An account that was pushed so often in a row is worth a line in the log.
const IN_VAIN: u32 = 4;

/// Whether servers have an account as it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// They store it, and serve it so.
    InForce,
    /// It was pushed just now. A server that was loading it just then may serve the former one afterwards, so whoever
    /// pushed makes sure once more [`SETTLED`] later.
    Pushed,
    /// They store it, and one of them does not serve it, although the same was pushed lately.
    NotServed {
        /// When it may be pushed again.
        push_in: Duration,
    },
}

impl AccountState {
    /// Whether it was pushed just now.
    pub fn is_pushed(self) -> bool {
        self == Self::Pushed
    }

    /// When to look again; `None`: it is as it is wanted.
    pub fn again(self) -> Option<Duration> {
        match self {
            Self::InForce => None,
            Self::Pushed => Some(SETTLED),
            Self::NotServed { push_in } => Some(push_in),
        }
    }
}

/// Why an account is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Fewer servers answered than there are: try again.
    #[error("{answered} brokers took the account, {needed} must")]
    Incomplete {
        /// That did.
        answered: usize,
        /// That have to.
        needed: usize,
    },
    /// A server said no; trying the same again does not help.
    #[error("the server refused the account: {0}")]
    Refused(String),
    /// The connection failed: try again.
    #[error("system account: {0}")]
    Connection(String),
    /// The claim could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

#[derive(Deserialize)]
struct Reply {
    error: Option<Problem>,
}

/// What a server serves, as it answers to `INFO`.
#[derive(Deserialize)]
struct InForce {
    /// `None`: it has not loaded the account, and will load what it stores.
    data: Option<Loaded>,
}

#[derive(Deserialize)]
struct Loaded {
    jwt: Option<String>,
    /// Whether it has all that the account imports.
    complete: bool,
}

#[derive(Deserialize)]
struct List {
    data: Vec<String>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    description: String,
}

/// The system account's connection to the servers of a broker.
#[derive(Clone)]
pub struct System {
    client: Client,
    servers: usize,
    /// Those of which most must have an account.
    voters: usize,
    /// Of this connection: a new one pushes at once what is not in force.
    pushes: Arc<Mutex<Pushes>>,
}

impl System {
    /// `client`: a user of the system account; `servers`: how many the broker has.
    pub fn new(client: Client, servers: usize) -> Self {
        Self { client, servers, voters: servers, pushes: Arc::default() }
    }

    /// What most of so many servers have is in force: the others have not joined yet, or are about to go.
    #[must_use]
    pub fn with_voters(self, voters: usize) -> Self {
        Self { voters: voters.min(self.servers), ..self }
    }

    /// Makes sure that the servers have this account as it is wanted, and serve it so.
    ///
    /// It is pushed unless both what they store and what they have in force say the same. What was pushed and is stored, and
    /// is not served, is pushed again after a pause, which grows; so is what servers do not tell of: one that looks for what
    /// an account lacks answers nothing for seconds.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn ensure(&self, account: &Account) -> Result<AccountState, PushError> {
        let lookup = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", account.id);
        let info = format!("$SYS.REQ.ACCOUNT.{}.INFO", account.id);
        let needed = self.majority();
        let (stored, in_force) =
            tokio::try_join!(self.ask(lookup, String::new(), needed), self.ask(info, String::new(), needed))?;
        let answered = stored.len().min(in_force.len());
        let is_stored = stored.iter().all(|jwt| account.claims.same_as(jwt));
        let is_served = in_force.iter().all(|answer| serves(answer, account));
        if answered >= needed && is_stored && is_served {
            self.pushes().forget(&account.id);
            return Ok(AccountState::InForce);
        }
        let pause = self.pushes().pause(account, Instant::now()).filter(|_| is_stored);
        match pause {
            Some(push_in) if answered >= needed => Ok(AccountState::NotServed { push_in }),
            Some(_) => Err(PushError::Incomplete { answered, needed }),
            None => self.push(account).await.map(|()| AccountState::Pushed),
        }
    }

    /// Pushes, whatever the servers have.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn push(&self, account: &Account) -> Result<(), PushError> {
        // Also where no server confirms it in time: it may have come there.
        let times = self.pushes().note(account, Instant::now());
        if times >= IN_VAIN {
            let (id, name) = (&account.id, &account.claims.name);
            tracing::warn!(id, name, times, "an account was pushed before and is not in force: it is pushed again");
        }
        self.confirmed("$SYS.REQ.CLAIMS.UPDATE", account.jwt.clone(), self.majority()).await
    }

    fn pushes(&self) -> MutexGuard<'_, Pushes> {
        self.pushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids of the accounts that the servers have: those that any of them has, because it gives them to the others. One
    /// that has not joined yet may have none.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn accounts(&self) -> Result<HashSet<String>, PushError> {
        let needed = list_quorum(self.servers, self.voters);
        let answers = self.ask("$SYS.REQ.CLAIMS.LIST".to_owned(), String::new(), needed).await?;
        if answers.len() < needed {
            return Err(PushError::Incomplete { answered: answers.len(), needed });
        }
        let mut accounts = HashSet::new();
        for answer in &answers {
            let list: List = serde_json::from_str(answer).map_err(|error| PushError::Refused(error.to_string()))?;
            accounts.extend(list.data);
        }
        Ok(accounts)
    }

    /// Ends a handler's rights: its connections at once, then the account itself. Done already: fine.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn remove_handler(&self, authority: &Authority, handler: &str, uid: &str) -> Result<(), PushError> {
        let now = OffsetDateTime::now_utc();
        self.remove(authority, authority.handler_tombstone(handler, uid, now)?, now).await
    }

    /// Ends a handler's connections, and lets it make no new ones until its account is pushed again ([`Self::ensure`]).
    /// Once a majority has done so, no acknowledgement of it reaches the broker.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn shut_out_handler(&self, authority: &Authority, handler: &str, uid: &str) -> Result<(), PushError> {
        self.push(&authority.handler_tombstone(handler, uid, OffsetDateTime::now_utc())?).await
    }

    /// Ends a publisher's account as that of a handler ([`Self::remove_handler`]).
    ///
    /// # Errors
    /// As there.
    pub async fn remove_publisher(&self, authority: &Authority, topic: &TopicId, name: &str) -> Result<(), PushError> {
        let now = OffsetDateTime::now_utc();
        self.remove(authority, authority.publisher_tombstone(topic, name, now)?, now).await
    }

    /// Ends a topic's account in the same way, when its streams are deleted: a server of a cluster takes streams without an
    /// account for orphans, and does not serve them again when the account comes back. The account of the ingresses must
    /// not import from it any more.
    ///
    /// # Errors
    /// As [`Self::remove_handler`].
    pub async fn remove_topic(&self, authority: &Authority, topic: &TopicId) -> Result<(), PushError> {
        let now = OffsetDateTime::now_utc();
        self.remove(authority, authority.topic_tombstone(topic, now)?, now).await
    }

    async fn remove(&self, authority: &Authority, tombstone: Account, now: OffsetDateTime) -> Result<(), PushError> {
        self.push(&tombstone).await?;
        self.pushes().forget(&tombstone.id);
        let deletion = authority.deletion_jwt(&[tombstone.id], now)?;
        self.confirmed("$SYS.REQ.CLAIMS.DELETE", deletion, self.servers).await
    }

    fn majority(&self) -> usize {
        self.voters / 2 + 1
    }

    async fn confirmed(&self, subject: &str, payload: String, needed: usize) -> Result<(), PushError> {
        let answers = self.ask(subject.to_owned(), payload, needed).await?;
        for answer in &answers {
            let reply: Reply = serde_json::from_str(answer).map_err(|error| PushError::Refused(error.to_string()))?;
            if let Some(problem) = reply.error {
                return Err(PushError::Refused(problem.description));
            }
        }
        if answers.len() < needed {
            return Err(PushError::Incomplete { answered: answers.len(), needed });
        }
        Ok(())
    }

    /// One request, the answers of all servers that are there.
    async fn ask(&self, subject: String, payload: String, needed: usize) -> Result<Vec<String>, PushError> {
        let count = Count { all: self.servers, enough: needed };
        let answers = gather(&self.client, &subject, payload.as_bytes(), count, TIMEOUT).await;
        answers.map_err(PushError::Connection)
    }
}

/// Whether a server that answers so to `INFO` serves the account as it is wanted, or will when it loads it.
fn serves(answer: &str, account: &Account) -> bool {
    let Ok(in_force) = serde_json::from_str::<InForce>(answer) else { return false };
    in_force.data.is_none_or(|loaded| loaded.complete && loaded.jwt.is_some_and(|jwt| account.claims.same_as(&jwt)))
}

/// So many answers that most of the voters are among them, whichever servers they are of.
fn list_quorum(servers: usize, voters: usize) -> usize {
    servers.saturating_sub(voters) + voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::contract::Routing;

    use super::*;

    #[test]
    fn what_a_server_has_loaded_is_served_when_it_is_the_same_and_whole() {
        let authority = Authority::generate("test", OffsetDateTime::UNIX_EPOCH).unwrap();
        let account = |topics: &[_]| authority.ingress_account(topics, OffsetDateTime::UNIX_EPOCH).unwrap();
        let topic = TopicId::new("shop", "orders").unwrap();
        let (wanted, other) = (account(&[(topic, Routing::Queued)]), account(&[]));
        let loaded = |account: &Account, complete: bool| {
            serde_json::json!({"server": {}, "data": {"jwt": account.jwt, "complete": complete}}).to_string()
        };
        assert!(serves(&loaded(&wanted, true), &wanted));
        assert!(!serves(&loaded(&wanted, false), &wanted), "an import was lost");
        assert!(!serves(&loaded(&other, true), &wanted), "it goes on with a former one");
        assert!(
            serves(r#"{"server": {}, "error": {"code": 500, "description": "does not exist"}}"#, &wanted),
            "it will load it"
        );
        assert!(!serves("", &wanted));
    }

    #[test]
    fn a_list_of_those_that_have_not_joined_is_none() {
        for (servers, voters, needed) in [(1, 1, 1), (3, 3, 2), (3, 1, 3), (5, 3, 4), (5, 5, 3), (3, 2, 3)] {
            assert_eq!(list_quorum(servers, voters), needed, "{servers} {voters}");
        }
    }
}
