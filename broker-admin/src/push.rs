//! Accounts to running servers: requests of the system account to the `full` resolver.
//!
//! Every server answers for itself, so a request is sent with the number of servers that must answer.

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt as _;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::accounts::Account;
use crate::authority::{Authority, AuthorityError};

/// How long a push waits for the servers.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why an account is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Fewer servers answered than there are: try again.
    #[error("{answered} of {servers} servers took the account")]
    Incomplete {
        /// That did.
        answered: usize,
        /// That should have.
        servers: usize,
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

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    description: String,
}

/// The system account's connection to the servers of one topic.
#[derive(Clone)]
pub struct System {
    client: Client,
    servers: usize,
}

impl System {
    /// `client`: a user of the system account; `servers`: how many the topic has.
    pub fn new(client: Client, servers: usize) -> Self {
        Self { client, servers }
    }

    /// Makes sure that the servers have this account as it is wanted.
    ///
    /// It is pushed unless what a server has says the same. Returns whether it was pushed.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn ensure(&self, account: &Account) -> Result<bool, PushError> {
        let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", account.id);
        let answers = self.ask(subject, String::new()).await?;
        if answers.len() == self.servers && answers.iter().all(|jwt| account.claims.same_as(jwt)) {
            return Ok(false);
        }
        self.push(account).await?;
        Ok(true)
    }

    /// Pushes, whatever the servers have.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn push(&self, account: &Account) -> Result<(), PushError> {
        self.confirmed("$SYS.REQ.CLAIMS.UPDATE", account.jwt.clone()).await
    }

    /// Ends a handler's rights: its connections at once, then the account itself. Done already: fine.
    ///
    /// # Errors
    /// As [`PushError`] says.
    pub async fn remove_handler(&self, authority: &Authority, handler: &str, uid: &str) -> Result<(), PushError> {
        let now = OffsetDateTime::now_utc();
        let tombstone = authority.handler_tombstone(handler, uid, now)?;
        self.push(&tombstone).await?;
        self.confirmed("$SYS.REQ.CLAIMS.DELETE", authority.deletion_jwt(&[tombstone.id], now)?).await
    }

    async fn confirmed(&self, subject: &str, payload: String) -> Result<(), PushError> {
        let answers = self.ask(subject.to_owned(), payload).await?;
        for answer in &answers {
            let reply: Reply = serde_json::from_str(answer).map_err(|error| PushError::Refused(error.to_string()))?;
            if let Some(problem) = reply.error {
                return Err(PushError::Refused(problem.description));
            }
        }
        if answers.len() < self.servers {
            return Err(PushError::Incomplete { answered: answers.len(), servers: self.servers });
        }
        Ok(())
    }

    /// One request, the answers of all servers.
    async fn ask(&self, subject: String, payload: String) -> Result<Vec<String>, PushError> {
        let connection = |error: &dyn std::fmt::Display| PushError::Connection(error.to_string());
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(|error| connection(&error))?;
        self.client.publish_with_reply(subject, inbox, payload.into()).await.map_err(|error| connection(&error))?;
        let mut answers = Vec::new();
        let deadline = tokio::time::sleep(TIMEOUT);
        tokio::pin!(deadline);
        while answers.len() < self.servers {
            tokio::select! {
                reply = replies.next() => match reply {
                    Some(message) if message.status.is_none() => {
                        answers.push(String::from_utf8_lossy(&message.payload).into_owned());
                    }
                    // No responders, or the connection is gone.
                    _ => break,
                },
                () = &mut deadline => break,
            }
        }
        Ok(answers)
    }
}
