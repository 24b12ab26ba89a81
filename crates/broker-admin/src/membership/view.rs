//! What is observed, as the plan asks for it (pure).

use std::collections::BTreeSet;

use super::{Cluster, Observed, Ordinal, Site, Stream, StreamId};

/// A broker whose servers have a leader.
pub(super) struct View<'a> {
    pub(super) site: &'a Site,
    pub(super) observed: &'a Observed,
    pub(super) leader: Ordinal,
    /// As the leader says: only it knows who was let in.
    pub(super) members: &'a BTreeSet<Ordinal>,
    size: usize,
    is_settled: bool,
}

impl<'a> View<'a> {
    /// `None`: none leads.
    pub(super) fn new(site: &'a Site, observed: &'a Observed) -> Option<Self> {
        let of = |(ordinal, server): (&Ordinal, &'a super::Server)| Some((*ordinal, server.cluster.as_ref()?));
        let leads = |(ordinal, cluster): &(Ordinal, &Cluster)| cluster.leader == Some(*ordinal);
        let (leader, cluster) = observed.servers.iter().filter_map(of).find(leads)?;
        Some(Self {
            site,
            observed,
            leader,
            members: &cluster.members,
            size: cluster.size,
            is_settled: cluster.is_settled,
        })
    }

    pub(super) fn name(&self, ordinal: Ordinal) -> String {
        self.site.names.get(ordinal).cloned().unwrap_or_else(|| ordinal.to_string())
    }

    pub(super) fn names(&self, ordinals: impl IntoIterator<Item = Ordinal>) -> Vec<String> {
        ordinals.into_iter().map(|ordinal| self.name(ordinal)).collect()
    }

    /// Members that do not answer.
    pub(super) fn away(&self) -> Vec<Ordinal> {
        let answers = |ordinal: &Ordinal| self.observed.servers.get(ordinal).is_some_and(|it| it.cluster.is_some());
        self.members.iter().copied().filter(|ordinal| !answers(ordinal)).collect()
    }

    /// Whether every member says the same of the cluster as its leader does.
    pub(super) fn is_agreed(&self) -> bool {
        let agrees = |ordinal: &Ordinal| {
            let cluster = self.observed.servers.get(ordinal).and_then(|server| server.cluster.as_ref());
            cluster.is_some_and(|cluster| cluster.size == self.size && cluster.leader == Some(self.leader))
        };
        self.is_settled && self.size == self.members.len() && self.members.iter().all(agrees)
    }

    /// Whether a server runs that was removed: it stores nothing.
    pub(super) fn is_removed(&self, ordinal: Ordinal) -> bool {
        !self.members.contains(&ordinal)
            && self.observed.servers.get(&ordinal).is_some_and(|server| server.cluster.is_none())
    }

    /// Whether a server runs that may become a member at any moment.
    pub(super) fn is_joining(&self, ordinal: Ordinal) -> bool {
        !self.members.contains(&ordinal)
            && self.observed.servers.get(&ordinal).is_some_and(|server| server.cluster.is_some())
    }

    /// Whether a server runs, or is about to, that has not answered: it may become a member at any moment.
    pub(super) fn is_silent(&self, ordinal: Ordinal) -> bool {
        self.site.placed.contains(&ordinal)
            && !self.members.contains(&ordinal)
            && !self.observed.servers.contains_key(&ordinal)
    }

    /// A member that has not loaded its configuration: its ordinal and id.
    pub(super) fn outdated(&self) -> Option<(Ordinal, &'a str)> {
        let mut members = self.observed.servers.iter().filter(|(ordinal, _)| self.members.contains(ordinal));
        let outdated = members
            .find(|(ordinal, server)| self.site.digests.get(**ordinal).is_some_and(|digest| *digest != server.digest));
        outdated.map(|(ordinal, server)| (*ordinal, server.id.as_str()))
    }

    pub(super) fn holds(&self, ordinal: Ordinal) -> usize {
        self.observed.servers.get(&ordinal).map_or(0, |server| server.holds)
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = (&'a StreamId, &'a Stream)> {
        self.observed.streams.iter()
    }

    /// Streams whose copies are not all there and whole.
    pub(super) fn unsettled(&self) -> usize {
        self.streams().filter(|(_, stream)| !stream.is_settled()).count()
    }
}
