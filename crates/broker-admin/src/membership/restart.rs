//! Which pod of a broker is restarted next, where several are to be (pure).
//!
//! One at a time, and only when every server answers and every copy of every stream is whole: then whatever the restarted
//! server lacks, the others have. The server that leads the cluster comes last, after another one has taken that over, so
//! that the cluster is without a leader once at most.

use std::collections::BTreeMap;

use super::view::View;
use super::{Observed, Ordinal, Site, Wait};

/// What is known of a server's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodState {
    /// It was made for something else than is wanted now.
    pub is_outdated: bool,
    /// Its containers are ready.
    pub is_ready: bool,
    /// Its server has been started and has not ended.
    pub is_running: bool,
    /// It is on its way out.
    pub is_ending: bool,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Every pod is as it is wanted.
    Done,
    /// The servers have to be asked.
    Observe,
    /// This pod is deleted, and made again by its StatefulSet.
    Pod(Ordinal),
    /// This server leads the cluster from now on.
    Lead(Ordinal),
    /// Another look, later.
    Wait(Wait),
}

impl Restart {
    /// For people.
    pub fn explain(&self, site: &Site) -> String {
        let name = |ordinal: &Ordinal| site.names.get(*ordinal).cloned().unwrap_or_default();
        match self {
            Self::Done => String::new(),
            Self::Observe => "asking the servers".to_owned(),
            Self::Pod(ordinal) => format!("restarting {}", name(ordinal)),
            Self::Lead(ordinal) => format!("letting {} lead the cluster", name(ordinal)),
            Self::Wait(wait) => wait.to_string(),
        }
    }
}

/// Decides. `observed`: what the servers say, where that was asked for.
pub fn next_restart(site: &Site, pods: &BTreeMap<Ordinal, PodState>, observed: Option<&Observed>) -> Restart {
    let servers = 0..site.pods;
    let names = |chosen: &dyn Fn(Ordinal) -> bool| -> Vec<String> {
        servers
            .clone()
            .filter(|ordinal| chosen(*ordinal))
            .filter_map(|ordinal| site.names.get(ordinal).cloned())
            .collect()
    };
    let outdated: Vec<Ordinal> = pods
        .iter()
        .filter(|(ordinal, pod)| servers.contains(ordinal) && pod.is_outdated)
        .map(|(ordinal, _)| *ordinal)
        .collect();
    if outdated.is_empty() {
        return Restart::Done;
    }
    let ending = names(&|ordinal| pods.get(&ordinal).is_some_and(|pod| pod.is_ending));
    if !ending.is_empty() {
        return Restart::Wait(Wait::Ending(ending));
    }
    // It serves nothing, and what it waits for may be what is new.
    if let Some(idle) = outdated.iter().find(|ordinal| pods.get(ordinal).is_some_and(|pod| !pod.is_running)) {
        return Restart::Pod(*idle);
    }
    // Alone, it has no one to wait for: whatever it lacks, no other server has.
    if site.pods == 1 {
        return Restart::Pod(outdated[0]);
    }
    let unready = names(&|ordinal| pods.get(&ordinal).is_none_or(|pod| !pod.is_ready));
    if !unready.is_empty() {
        return Restart::Wait(Wait::Away(unready));
    }
    let Some(observed) = observed else { return Restart::Observe };
    match leader(site, observed) {
        Err(wait) => Restart::Wait(wait),
        Ok(leader) => choose(site, &outdated, leader),
    }
}

/// The server that leads the cluster, where every server has all that it should have.
fn leader(site: &Site, observed: &Observed) -> Result<Ordinal, Wait> {
    let away: Vec<String> = (0..site.pods)
        .filter(|ordinal| !observed.servers.contains_key(ordinal))
        .filter_map(|ordinal| site.names.get(ordinal).cloned())
        .collect();
    if !away.is_empty() {
        return Err(Wait::Away(away));
    }
    let view = View::new(site, observed).ok_or(Wait::Leader)?;
    if !observed.is_whole(site) {
        return Err(Wait::Agreement);
    }
    match observed.streams.values().filter(|stream| !stream.is_settled()).count() {
        0 => Ok(view.leader),
        streams => Err(Wait::Copying(streams)),
    }
}

fn choose(site: &Site, outdated: &[Ordinal], leader: Ordinal) -> Restart {
    if let Some(ordinal) = outdated.iter().rev().find(|ordinal| **ordinal != leader) {
        return Restart::Pod(*ordinal);
    }
    // Only the leader is left: all others are as they should be.
    (0..site.pods).find(|ordinal| *ordinal != leader).map_or(Restart::Pod(leader), Restart::Lead)
}

impl Observed {
    /// Whether the servers that are to run, and no others, are one cluster: they agree on who leads it, and have all that
    /// it decided.
    pub fn is_whole(&self, site: &Site) -> bool {
        View::new(site, self).is_some_and(|view| view.is_agreed() && view.members.iter().copied().eq(0..site.pods))
    }
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod tests;
