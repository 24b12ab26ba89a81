//! What the servers say of themselves, of their cluster and of their streams: over the system account, with bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_broker_client::seed;
use tidegate_wire::nats::Client;

use super::counts::Counts;
use super::report::{Answer, Detail, Group, JetStream, MAX_STREAMS, Meta, Varz};
use super::{Cluster, Observed, Ordinal, Server, Site, Stream, StreamId};
use crate::gather::{Count, gather};

/// How long the servers are waited for. One that is slower is away.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Accounts of an answer: one has three streams for each of its handlers, and each of these a kilobyte.
const ACCOUNTS: usize = 16;
/// Bytes of all answers.
const MAX_BYTES: usize = 256 << 20;

/// Why nothing is known of the servers. Another try may succeed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The connection failed.
    #[error("system account: {0}")]
    Connection(String),
    /// No server answered.
    #[error("no server answers")]
    NoAnswer,
    /// A server ended its answer before it was whole.
    #[error("a server stopped answering while it was asked for its streams")]
    Interrupted,
    /// An answer is none that a nats-server gives.
    #[error("the answer of a server cannot be read: {0}")]
    Unreadable(String),
}

/// Asks all servers. `system`: a user of the system account.
///
/// What each stream has is asked three times, so that a copy can be compared with what its leader had before and after
/// ([`Counts::has_all`]).
///
/// # Errors
/// As [`ObserveError`] says. That a server does not answer is none: it is not among those observed.
pub async fn observe(system: &Client, site: &Site) -> Result<Observed, ObserveError> {
    let servers = Servers { system, site };
    // One that was removed answers until its pod has ended.
    let count = site.present.len().max(site.pods);
    let digests: BTreeMap<Ordinal, (String, Varz)> = servers.ask("VARZ", &json!({}), count).await?;
    if digests.is_empty() {
        return Err(ObserveError::NoAnswer);
    }
    let count = digests.len();
    let before = leaders(&servers.streams(count).await?, site);
    let during = servers.streams(count).await?;
    let after = leaders(&servers.streams(count).await?, site);
    let mut observed = Observed::default();
    for (ordinal, report) in &during {
        let Some((id, varz)) = digests.get(ordinal) else { continue };
        let cluster = report.meta.as_ref().map(|meta| cluster(meta, *ordinal, site));
        let (id, digest) = (id.clone(), varz.config_digest.clone());
        observed.servers.insert(*ordinal, Server { id, digest, cluster, holds: report.holds });
    }
    observed.streams = streams(&during, &before, &after, site);
    Ok(observed)
}

/// Asks all servers for their cluster as each of them sees it: one small answer of each. One that was removed sees none.
///
/// # Errors
/// As for [`observe`].
pub async fn clusters(system: &Client, site: &Site) -> Result<BTreeMap<Ordinal, Cluster>, ObserveError> {
    let reports = Servers { system, site }.totals().await?;
    let of = |(ordinal, report): (&Ordinal, &Report)| Some((*ordinal, cluster(report.meta.as_ref()?, *ordinal, site)));
    Ok(reports.iter().filter_map(of).collect())
}

/// What a server reports of what it stores.
pub(crate) struct Report {
    /// By this id the server is asked alone. It has another one after each start.
    pub(crate) id: String,
    /// `None`: it stores nothing.
    meta: Option<Meta>,
    holds: usize,
    /// Consumers that lie on it.
    pub(crate) consumers: usize,
    pub(crate) streams: BTreeMap<StreamId, Detail>,
}

impl Report {
    fn new(id: String) -> Self {
        Self { id, meta: None, holds: 0, consumers: 0, streams: BTreeMap::new() }
    }

    /// Raft groups that it is part of: one for each stream and each consumer, and that of the cluster.
    pub(crate) fn groups(&self) -> usize {
        self.holds + self.consumers + 1
    }
}

pub(crate) struct Servers<'a> {
    pub(crate) system: &'a Client,
    pub(crate) site: &'a Site,
}

impl Servers<'_> {
    /// What all servers store, page by page. A server that does not answer the first page counts as away; one that does not
    /// answer a later one leaves nothing that could be believed.
    pub(crate) async fn streams(&self, count: usize) -> Result<BTreeMap<Ordinal, Report>, ObserveError> {
        let mut reports: BTreeMap<Ordinal, Report> = BTreeMap::new();
        let (mut offset, mut count) = (0, count);
        loop {
            let question = json!({
                "accounts": true, "streams": true, "config": true, "offset": offset, "limit": ACCOUNTS,
            });
            let page: BTreeMap<Ordinal, (String, JetStream)> = self.ask("JSZ", &question, count).await?;
            if offset > 0 && page.len() < count {
                return Err(ObserveError::Interrupted);
            }
            count = page.len();
            let total = page.values().map(|(_, answer)| answer.total).max().unwrap_or(0);
            for (ordinal, (id, answer)) in page {
                let report = reports.entry(ordinal).or_insert_with(|| Report::new(id));
                report.meta = answer.meta_cluster.filter(|_| !answer.disabled);
                (report.holds, report.consumers) = (answer.streams, answer.consumers);
                for account in answer.account_details {
                    for detail in account.stream_detail {
                        let id = StreamId { account: account.id.clone(), name: detail.name.clone() };
                        report.streams.insert(id, detail);
                    }
                }
                if report.streams.len() > MAX_STREAMS {
                    return Err(ObserveError::Unreadable(format!("more than {MAX_STREAMS} streams")));
                }
            }
            offset += ACCOUNTS;
            if offset >= total.min(MAX_STREAMS) {
                return Ok(reports);
            }
        }
    }

    /// What all servers say of themselves without their streams.
    pub(crate) async fn totals(&self) -> Result<BTreeMap<Ordinal, Report>, ObserveError> {
        let answers: BTreeMap<Ordinal, (String, JetStream)> = self.ask("JSZ", &json!({}), self.site.pods).await?;
        let report = |(ordinal, (id, answer)): (Ordinal, (String, JetStream))| {
            let meta = answer.meta_cluster.filter(|_| !answer.disabled);
            (ordinal, Report { meta, holds: answer.streams, consumers: answer.consumers, ..Report::new(id) })
        };
        Ok(answers.into_iter().map(report).collect())
    }

    /// The answers of the servers that are ours.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        question: &Value,
        count: usize,
    ) -> Result<BTreeMap<Ordinal, (String, T)>, ObserveError> {
        let subject = format!("$SYS.REQ.SERVER.PING.{what}");
        let count = Count { all: count, enough: count };
        let answers = gather(self.system, &subject, question.to_string().as_bytes(), count, TIMEOUT).await;
        let answers = answers.map_err(ObserveError::Connection)?;
        if answers.iter().map(String::len).sum::<usize>() > MAX_BYTES {
            return Err(ObserveError::Unreadable(format!("more than {MAX_BYTES} bytes")));
        }
        let mut found = BTreeMap::new();
        for answer in &answers {
            let answer: Answer<T> =
                serde_json::from_str(answer).map_err(|error| ObserveError::Unreadable(error.to_string()))?;
            let ordinal = self.site.names.iter().position(|name| *name == answer.server.name);
            if let (Some(ordinal), true, Some(data)) = (ordinal, answer.is_sane(), answer.data) {
                found.insert(ordinal, (answer.server.id, data));
            }
        }
        Ok(found)
    }
}

fn cluster(meta: &Meta, of: Ordinal, site: &Site) -> Cluster {
    let mut members: BTreeSet<Ordinal> =
        meta.replicas.iter().filter_map(|peer| site.ordinal_of_peer(&peer.peer)).collect();
    // A server does not list itself, unless it knows no leader.
    members.insert(of);
    Cluster {
        leader: site.ordinal_of(&meta.leader),
        members,
        size: meta.cluster_size,
        is_settled: meta.replicas.iter().all(|peer| peer.current && !peer.offline),
    }
}

/// What each stream's leader has.
fn leaders(reports: &BTreeMap<Ordinal, Report>, site: &Site) -> BTreeMap<StreamId, Counts> {
    let mut leaders = BTreeMap::new();
    for (ordinal, report) in reports {
        for (id, detail) in &report.streams {
            if leader(detail, site) == Some(*ordinal) {
                leaders.insert(id.clone(), detail.state);
            }
        }
    }
    leaders
}

pub(crate) fn leader(detail: &Detail, site: &Site) -> Option<Ordinal> {
    site.ordinal_of(&detail.cluster.as_ref()?.leader)
}

fn streams(
    reports: &BTreeMap<Ordinal, Report>,
    before: &BTreeMap<StreamId, Counts>,
    after: &BTreeMap<StreamId, Counts>,
    site: &Site,
) -> BTreeMap<StreamId, Stream> {
    let mut streams: BTreeMap<StreamId, Stream> = BTreeMap::new();
    for (ordinal, report) in reports {
        for (id, detail) in &report.streams {
            let stream = streams.entry(id.clone()).or_default();
            let marks = before.get(id).zip(after.get(id));
            let expires = detail.config.max_age > 0;
            let has_all = marks.is_some_and(|(before, after)| detail.state.has_all(before, after, expires));
            stream.holders.insert(*ordinal, has_all);
            // The leader's word counts; where there is none, that of any of them.
            let leads = leader(detail, site) == Some(*ordinal);
            if leads || stream.leader.is_none() {
                stream.copies = detail.config.num_replicas.max(1);
                stream.leader = leads.then_some(*ordinal);
            }
            stream.is_moving |= detail.cluster.as_ref().is_some_and(is_moving);
        }
    }
    streams
}

pub(crate) fn is_moving(group: &Group) -> bool {
    group.desired.is_some()
}

impl Site {
    fn ordinal_of(&self, name: &str) -> Option<Ordinal> {
        self.names.iter().position(|known| known == name)
    }

    fn ordinal_of_peer(&self, peer: &str) -> Option<Ordinal> {
        self.names.iter().position(|name| seed::peer_id(name) == peer.as_bytes())
    }
}
