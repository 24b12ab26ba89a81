//! Which copies lack something (pure).
//!
//! Two looks, some seconds apart, are enough to tell a damaged copy from one that is only a moment behind. What was ever
//! removed of a stream only grows, on every server, and all servers remove the same. So a copy that had removed more at
//! the first look than another one has at the second lacks something: the other one has heard meanwhile of whatever was
//! removed. (It has if it stored meanwhile what the first one had stored.) A hole counts as removed.
//!
//! Where messages go by their age this says nothing, because a server whose clock is ahead removes them earlier: of such a
//! stream only what lacks between the first and the last message counts.

use std::collections::BTreeMap;

use tidegate_broker_client::layout;

use super::{Copies, Look};
use crate::membership::{Counts, Ordinal, StreamId};

/// What two looks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Copies that lack what another server has.
    pub damaged: Vec<Damaged>,
    /// Holes that every copy has: what is gone.
    pub lost: Vec<Hole>,
    /// Ends that every copy has lost: what was acknowledged and is gone.
    pub tails: Vec<Tail>,
    /// Streams of which nothing can be said yet: a copy is still being made, or nothing leads them.
    pub unfinished: Vec<StreamId>,
}

impl Findings {
    /// Whether every copy has what the others have, and none a hole.
    pub fn is_passed(&self) -> bool {
        self.damaged.is_empty() && self.lost.is_empty() && self.tails.is_empty() && self.unfinished.is_empty()
    }
}

/// A copy that lacks what another server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Of this stream.
    pub stream: StreamId,
    /// On this server.
    pub server: Ordinal,
    /// A server that has what it lacks.
    pub whole: Ordinal,
    /// Messages that it lacks; 0: as many, and other ones.
    pub missing: u64,
    /// The first sequence that the other server has.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// Messages that no server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Of this stream.
    pub stream: StreamId,
    /// How many.
    pub missing: u64,
    /// After this sequence.
    pub first: u64,
    /// Before this one.
    pub last: u64,
}

/// Messages at the end of a stream that were acknowledged and that no server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Of this stream.
    pub stream: StreamId,
    /// The sequence of the first of them.
    pub first: u64,
    /// That of the last one.
    pub last: u64,
}

/// Whether another server has what a stream lacks on the server that leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// It has: the leader's copy is damaged, and can be made again from another one.
    Yes,
    /// All copies were seen, and none has more than the leader's.
    No,
    /// Not all copies were seen, one of them is still being made, or another server leads. The servers that did not answer.
    Unknown(Vec<Ordinal>),
}

/// The highest sequence of each stream that is known to have been acknowledged to a publisher.
pub type Acknowledged = BTreeMap<StreamId, u64>;

impl Look {
    /// Whether nothing in it needs a second look. `acknowledged` was known before it.
    pub fn is_plain(&self, acknowledged: &Acknowledged) -> bool {
        let is_short = |(id, copies): (&StreamId, &Copies)| {
            copies.is_there() && acknowledged.get(id).is_some_and(|acknowledged| copies.highest() < *acknowledged)
        };
        if self.streams.iter().any(is_short) {
            return false;
        }
        self.streams.iter().all(|(id, copies)| {
            let first = copies.counts.values().next();
            let are_equal = copies.expires || copies.counts.values().all(|other| Some(other) == first);
            copies.is_there() && are_equal && copies.counts.values().all(|it| hole(id, it) == 0)
        })
    }
}

impl Copies {
    /// Whether all copies are there, and stay there.
    pub(super) fn is_there(&self) -> bool {
        !self.is_moving && self.leader.is_some() && self.counts.len() == self.wanted
    }

    /// What a copy lacks of what was ever stored, as far as that can be compared between servers.
    fn removed(&self, id: &StreamId, counts: &Counts) -> u64 {
        if self.expires { hole(id, counts) } else { counts.removed() }
    }

    fn highest(&self) -> u64 {
        self.counts.values().map(|counts| counts.last).max().unwrap_or(0)
    }
}

/// Decides, by two looks; the same one twice where the first is plain. `acknowledged` was known before them.
pub fn judge(earlier: &Look, later: &Look, acknowledged: &Acknowledged) -> Findings {
    let mut findings = Findings::default();
    for (id, now) in &later.streams {
        match earlier.streams.get(id) {
            Some(before) => {
                let acknowledged = acknowledged.get(id).copied().unwrap_or(0);
                Pair { id, before, now, acknowledged }.judge(&mut findings);
            }
            None => findings.unfinished.push(id.clone()),
        }
    }
    findings
}

/// Decides, by two looks at a broker of so many servers, whether what a stream lacks on the server `leader` is on another one.
/// It may be on one that is away. `None`: on the server that leads it at the second look. The same look twice may do; but where events come all the time, some copy is always a
/// moment behind in it.
pub fn elsewhere(earlier: &Look, later: &Look, id: &StreamId, leader: Option<Ordinal>, servers: usize) -> Elsewhere {
    let findings = judge(earlier, later, &Acknowledged::new());
    let leads = later.streams.get(id).and_then(|copies| copies.leader);
    let asked = leader.or(leads);
    // That another copy is damaged says nothing of what this one lacks.
    if findings.damaged.iter().any(|damaged| damaged.stream == *id && Some(damaged.server) == asked) {
        return Elsewhere::Yes;
    }
    // What a server that has begun to lead it meanwhile lacks is not known yet: it may be nothing.
    if leads.is_some() && leads == asked && !findings.unfinished.contains(id) {
        return Elsewhere::No;
    }
    Elsewhere::Unknown((0..servers).filter(|server| !later.totals.servers.contains_key(server)).collect())
}

/// A stream at both looks.
struct Pair<'a> {
    id: &'a StreamId,
    before: &'a Copies,
    now: &'a Copies,
    /// The highest sequence that a publisher was told of; 0: not known.
    acknowledged: u64,
}

impl Pair<'_> {
    fn judge(&self, findings: &mut Findings) {
        let Self { id, before, now, acknowledged } = self;
        // A server that was starting at the first look has yet to be seen twice.
        if !now.is_there() || now.counts.keys().any(|server| !before.counts.contains_key(server)) {
            return findings.unfinished.push((*id).clone());
        }
        let stored = before.highest();
        let complete: BTreeMap<Ordinal, &Counts> =
            now.counts.iter().filter(|(_, counts)| counts.last >= stored).map(|(it, counts)| (*it, counts)).collect();
        let Some((best, whole)) = self.best(&complete) else { return findings.unfinished.push((*id).clone()) };
        if complete.len() < now.counts.len() {
            findings.unfinished.push((*id).clone());
        }
        for (server, counts) in &complete {
            if let Some(missing) = self.lacks(*server, counts, best, whole) {
                findings.damaged.push(Damaged {
                    stream: (*id).clone(),
                    server: *server,
                    whole: best,
                    missing,
                    first: whole.first,
                    last: whole.last,
                });
            }
        }
        let missing = before.counts.get(&best).map_or(0, |counts| hole(id, counts)).min(hole(id, whole));
        if missing > 0 {
            findings.lost.push(Hole { stream: (*id).clone(), missing, first: whole.first, last: whole.last });
        }
        // A server that has just begun to lead may not have applied all that it has.
        let last = stored.max(now.highest());
        if last < *acknowledged {
            findings.tails.push(Tail { stream: (*id).clone(), first: last + 1, last: *acknowledged });
        }
    }

    /// The copy that has the most, and of several that as many others equal; the leader's, if that leaves a choice.
    fn best<'a>(&self, complete: &BTreeMap<Ordinal, &'a Counts>) -> Option<(Ordinal, &'a Counts)> {
        let alike = |counts: &Counts| complete.values().filter(|other| ***other == *counts).count();
        let best = complete.iter().min_by_key(|(server, counts)| {
            let other_than_leader = self.now.leader != Some(**server);
            (self.now.removed(self.id, counts), std::cmp::Reverse(alike(counts)), other_than_leader, **server)
        });
        best.map(|(server, counts)| (*server, *counts))
    }

    /// How many messages a copy lacks that the best one has.
    fn lacks(&self, server: Ordinal, counts: &Counts, best: Ordinal, whole: &Counts) -> Option<u64> {
        let before = self.before.counts.get(&server)?;
        if server == best {
            return None;
        }
        let is_at_rest = before == counts && self.before.counts.get(&best) == Some(whole);
        // Of other streams single messages go when they are acknowledged, which a server hears on another way than what
        // is stored: it may be behind with that alone, for as long as a consumer has no leader.
        if self.id.name != layout::EVENT_STREAM && !is_at_rest {
            return None;
        }
        let [was, is, least] = [before, counts, whole].map(|counts| self.now.removed(self.id, counts));
        if was > least && is > least {
            return Some(is - least);
        }
        let hole = hole(self.id, before).min(hole(self.id, counts));
        if hole > 0 && self::hole(self.id, whole) == 0 {
            return Some(hole);
        }
        // Nothing has changed meanwhile, and most copies say the same.
        let is_majority = 2 * self.now.counts.values().filter(|other| *other == whole).count() > self.now.counts.len();
        (is_at_rest && is_majority && !self.now.expires && counts != whole).then_some(0)
    }
}

/// Messages that lack between the first and the last one. Of the events of a topic nothing is ever deleted but the
/// oldest, so that no other copy is needed to see it; of other streams, single messages go.
fn hole(id: &StreamId, counts: &Counts) -> u64 {
    if id.name != layout::EVENT_STREAM || counts.messages == 0 {
        return 0;
    }
    counts.last.saturating_add(1).saturating_sub(counts.first).saturating_sub(counts.messages)
}
