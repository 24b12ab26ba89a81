//! What to do about a damaged copy (pure but for [`HealStep::run`]).
//!
//! A server that has the whole copy leads, the others' copies are removed, and made again from that one. In between there
//! is only one, so a stream is never left like that: whoever finds one that has fewer copies than there are servers
//! gives it the rest, after a crash of the operator too.

use std::collections::BTreeSet;
use std::fmt;

use super::{Damaged, Findings, Look};
use crate::api::{ApiError, Broker};
use crate::membership::{Ordinal, Site, StreamId};
use crate::single_copy;

/// Streams that are healed at the same time, so that what is copied does not keep events waiting.
const STREAMS_AT_A_TIME: usize = 4;
/// Streams that get another leader at the same time.
const LEADERS_AT_A_TIME: usize = 16;

/// A step. It can be repeated, and is done only while it is still of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealStep {
    /// This server leads the stream, because its copy is whole.
    Lead(StreamId, String),
    /// Only the copy of this server, which leads the stream, stays.
    Keep(StreamId, String),
    /// The stream gets so many copies.
    Copy(StreamId, usize),
}

impl HealStep {
    /// The stream.
    pub fn stream(&self) -> &StreamId {
        match self {
            Self::Lead(stream, _) | Self::Keep(stream, _) | Self::Copy(stream, _) => stream,
        }
    }

    /// Does it, by the API of the stream's account.
    ///
    /// # Errors
    /// As [`ApiError`] says. It may have been done all the same.
    pub async fn run(&self, account: &Broker) -> Result<(), ApiError> {
        match self {
            Self::Lead(stream, server) => account.step_down_stream(&stream.name, server).await,
            // Another one leads by now: the next look sees which.
            Self::Keep(stream, server) => single_copy::keep_one(account, &stream.name, Some(server)).await,
            Self::Copy(stream, copies) => account.set_stream_copies(&stream.name, *copies).await,
        }
    }
}

impl fmt::Display for HealStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lead(_, server) => write!(f, "letting {server} lead it"),
            Self::Keep(_, server) => write!(f, "removing all copies but that of {server}"),
            Self::Copy(_, copies) => write!(f, "making {copies} copies of it"),
        }
    }
}

/// What comes next; nothing where nothing can be done, or has to be waited for. Only where all servers answer. `copies`: what
/// a stream has at least, which is fewer than there are servers while there come to be more of them or fewer.
pub fn next(site: &Site, look: &Look, findings: &Findings, copies: usize) -> Vec<HealStep> {
    if site.pods < 2 || look.totals.servers.len() < site.pods {
        return Vec::new();
    }
    let name = |server: Ordinal| site.names.get(server).cloned();
    let mut steps: Vec<HealStep> = Vec::new();
    let singles = look.streams.iter().filter(|(_, of)| of.wanted < copies && of.is_there());
    steps.extend(singles.map(|(id, _)| HealStep::Copy(id.clone(), copies)));
    let is_damaged = |stream: &StreamId, server| {
        findings.damaged.iter().any(|other| other.stream == *stream && other.server == server)
    };
    let mut seen = BTreeSet::new();
    for Damaged { stream, whole, .. } in findings.damaged.iter().filter(|damaged| seen.insert(&damaged.stream)) {
        let leader = look.streams.get(stream).and_then(|copies| copies.leader);
        let (Some(leader), Some(whole)) = (leader, name(*whole)) else { continue };
        if is_damaged(stream, leader) {
            steps.push(HealStep::Lead(stream.clone(), whole));
        } else if let Some(leader) = name(leader).filter(|_| !findings.unfinished.contains(stream)) {
            steps.push(HealStep::Keep(stream.clone(), leader));
        }
    }
    let under_way = look.streams.values().filter(|copies| !copies.is_there()).count();
    // Who leads changes at once, and readers get what is there.
    let leads = |step: &HealStep| matches!(step, HealStep::Lead(..));
    let (mut now, mut copied): (Vec<_>, Vec<_>) = steps.into_iter().partition(leads);
    now.truncate(LEADERS_AT_A_TIME);
    copied.truncate(STREAMS_AT_A_TIME.saturating_sub(under_way));
    now.extend(copied);
    now
}
