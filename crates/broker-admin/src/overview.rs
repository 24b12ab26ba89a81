//! How far all consumers of a broker are, and what all its streams have: for all topics at once, over the one connection to
//! the system account.
//!
//! Every server says what lies on it (`$SYS.REQ.SERVER.PING.JSZ`); of a stream or consumer only the word of the server that
//! leads it counts, because the others follow it. A server's `num_pending` is that of its own copy.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_broker_client::contract::MAX_TOPICS;
use tidegate_broker_client::layout;
use tidegate_wire::nats::Client;
use time::OffsetDateTime;

use crate::api::{ClusterInfo, Contents, SequencePair, StreamConfig, StreamInfo, bounded, count, name};
use crate::gather::{Count, gather};
use crate::membership::ObserveError;

/// How long the servers are waited for. One that is slower says nothing this time.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Accounts of an answer: one may have a thousand handlers, each with three streams and two consumers of about a kilobyte.
const PAGE: usize = 32;
/// Accounts at most: those of topics, and of topics that are gone with their events retained.
const MAX_ACCOUNTS: usize = 4 * MAX_TOPICS;
/// Bytes of the answers to one question.
const MAX_BYTES: usize = 256 << 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// How far the consumers are, in all accounts.
    Consumers,
    /// The same in the account of this id.
    ConsumersOf(&'a str),
    /// All streams as well, in all accounts.
    Everything,
}

/// What was found, by account.
#[derive(Debug, Default)]
pub struct Overview {
    /// Accounts without anything may be missing.
    pub accounts: HashMap<String, AccountOverview>,
    /// Whether every server answered: what is missing is not there, or has no leader.
    pub is_whole: bool,
}

/// What an account has.
#[derive(Debug, Default)]
pub struct AccountOverview {
    /// The consumers of its stream of events.
    pub consumers: Vec<Progress>,
    /// Its streams, where they were asked for.
    pub streams: Vec<StreamInfo>,
}

/// How far a consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its name.
    pub name: String,
    /// Messages not yet delivered.
    pub pending: u64,
    /// Messages delivered and not acknowledged.
    pub in_flight: u64,
    /// Deliveries so far.
    pub delivered: u64,
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    data: Option<JetStream>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
}

#[derive(Deserialize)]
struct JetStream {
    /// Accounts of all pages.
    #[serde(default)]
    total: usize,
    #[serde(default)]
    account_details: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    id: String,
    #[serde(default)]
    stream_detail: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    /// Only where it was asked for.
    config: Option<StreamConfig>,
    state: Contents,
    cluster: Option<ClusterInfo>,
    #[serde(default)]
    consumer_detail: Vec<Consumer>,
}

#[derive(Deserialize)]
struct Consumer {
    #[serde(deserialize_with = "name")]
    name: String,
    delivered: SequencePair,
    #[serde(deserialize_with = "count")]
    num_ack_pending: u64,
    #[serde(deserialize_with = "count")]
    num_pending: u64,
    cluster: Option<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    leader: String,
}

/// Asks all servers of a broker, of which there are so many. `system`: a user of the system account.
///
/// # Errors
/// None answered in time, or one with what no nats-server says.
pub async fn look(system: &Client, servers: usize, scope: Scope<'_>) -> Result<Overview, ObserveError> {
    let mut overview = Overview { is_whole: true, ..Overview::default() };
    let mut offset = 0;
    loop {
        let answers = ask(system, servers, &question(scope, offset)).await?;
        overview.is_whole &= answers.len() >= servers;
        let total = answers.iter().filter_map(|answer| Some(answer.data.as_ref()?.total)).max().unwrap_or(0);
        for Answer { server, data } in answers {
            for account in data.into_iter().flat_map(|data| data.account_details) {
                overview.add(&server.name, account);
            }
        }
        offset += PAGE;
        if matches!(scope, Scope::ConsumersOf(_)) || offset >= total.min(MAX_ACCOUNTS) {
            return Ok(overview);
        }
    }
}

/// As nats-server has it (`JSzOptions`).
fn question(scope: Scope<'_>, offset: usize) -> Value {
    match scope {
        Scope::Consumers => json!({"accounts": true, "consumer": true, "offset": offset, "limit": PAGE}),
        Scope::ConsumersOf(account) => json!({"account": account, "consumer": true}),
        Scope::Everything => {
            json!({"accounts": true, "consumer": true, "config": true, "offset": offset, "limit": PAGE})
        }
    }
}

async fn ask(system: &Client, servers: usize, question: &Value) -> Result<Vec<Answer>, ObserveError> {
    // The others' consumers have moved to these, or say nothing for a moment.
    let count = Count { all: servers, enough: servers / 2 + 1 };
    let answers = gather(system, "$SYS.REQ.SERVER.PING.JSZ", question.to_string().as_bytes(), count, TIMEOUT).await;
    let answers = answers.map_err(ObserveError::Connection)?;
    if answers.is_empty() {
        return Err(ObserveError::NoAnswer);
    }
    if answers.iter().map(String::len).sum::<usize>() > MAX_BYTES {
        return Err(ObserveError::Unreadable(format!("more than {MAX_BYTES} bytes")));
    }
    let read = |answer: &String| {
        serde_json::from_str(answer).map_err(|error| ObserveError::Unreadable(bounded(&error.to_string())))
    };
    answers.iter().map(read).collect()
}

impl Overview {
    fn add(&mut self, server: &str, account: Account) {
        let found = self.accounts.entry(account.id).or_default();
        for Stream { name, created, config, state, cluster, consumer_detail } in account.stream_detail {
            if name == layout::EVENT_STREAM {
                // A single server that is no cluster leads everything.
                let leads = |consumer: &Consumer| consumer.cluster.as_ref().is_none_or(|it| it.leader == server);
                found.consumers.extend(consumer_detail.into_iter().filter(leads).map(Progress::from));
            }
            let leads = cluster.as_ref().is_none_or(|it| it.leader.as_deref() == Some(server));
            if let Some(config) = config.filter(|_| leads) {
                found.streams.push(StreamInfo { config, created, state, cluster });
            }
        }
    }
}

impl From<Consumer> for Progress {
    fn from(consumer: Consumer) -> Self {
        Self {
            name: consumer.name,
            pending: consumer.num_pending,
            in_flight: consumer.num_ack_pending,
            delivered: consumer.delivered.consumer_sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(leaders: [&str; 2]) -> Account {
        let time = "2026-01-01T00:00:00Z";
        let pair = json!({"consumer_seq": 7, "stream_seq": 9});
        let consumer = |name: &str, leader: &str| {
            json!({
                "name": name, "delivered": pair, "num_ack_pending": 2, "num_pending": 3, "cluster": {"leader": leader},
            })
        };
        let config = json!({
            "name": "events", "discard": "new", "max_bytes": 1000, "retention": "limits", "storage": "file",
            "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": -1, "max_age": 0, "num_replicas": 3,
        });
        let state = json!({"messages": 1, "bytes": 1, "first_seq": 1, "last_seq": 1, "first_ts": time});
        let stream = json!({
            "name": "events", "created": time, "config": config, "state": state, "cluster": {"leader": leaders[0]},
            "consumer_detail": [consumer("a", leaders[0]), consumer("b", leaders[1])],
        });
        serde_json::from_value(json!({"id": "A", "stream_detail": [stream]})).unwrap()
    }

    #[test]
    fn only_the_word_of_a_leader_counts() {
        let mut overview = Overview::default();
        for server in ["s-0", "s-1", "s-2"] {
            overview.add(server, account(["s-1", "s-2"]));
        }
        let found = &overview.accounts["A"];
        let names: Vec<&str> = found.consumers.iter().map(|consumer| consumer.name.as_str()).collect();
        assert_eq!((names, found.streams.len()), (vec!["a", "b"], 1));
        assert_eq!(found.consumers[0], Progress { name: "a".into(), pending: 3, in_flight: 2, delivered: 7 });
    }
}
