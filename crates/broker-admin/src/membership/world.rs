//! A model of the servers, their pods and one stream, and all that can happen to them ([`super::walk`]).

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const STREAM: &str = "events";

/// The servers, their pods and one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct World {
    wanted: usize,
    /// How often the user may change their mind.
    minds: u8,
    /// How often a server may crash.
    crashes: u8,
    pods: usize,
    routes: usize,
    /// Those that have a node: their servers run, or start at any moment.
    placed: BTreeSet<Ordinal>,
    /// How often a pod may get its node between a look at the pods and what follows from it.
    races: u8,
    /// Whether one did.
    has_raced: bool,
    /// Routes that each running server has loaded.
    loaded: BTreeMap<Ordinal, usize>,
    volumes: BTreeSet<Ordinal>,
    /// Those of servers that were removed and have ended.
    stale: BTreeSet<Ordinal>,
    members: BTreeSet<Ordinal>,
    leader: Option<Ordinal>,
    /// Removed, and running without storage.
    disabled: BTreeSet<Ordinal>,
    /// Removed less than five minutes ago.
    banned: BTreeSet<Ordinal>,
    copies: usize,
    holders: BTreeMap<Ordinal, bool>,
    stream_leader: Option<Ordinal>,
    /// From where the stream is to move.
    leaving: BTreeSet<Ordinal>,
    /// Observed to be next, and not done yet.
    pending: Option<Pending>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pending {
    Routes(usize),
    Pods(usize),
    Volume(Ordinal),
    Reload(Ordinal),
    Copies(usize),
    StepDown(Ordinal),
    Evacuate(Ordinal),
    MetaStepDown(Ordinal),
    Remove(Ordinal),
}

fn name(ordinal: Ordinal) -> String {
    format!("b-{ordinal}")
}

fn ordinal(name: &str) -> Ordinal {
    name.trim_start_matches("b-").parse().unwrap()
}

/// Adds the world that follows by a change.
type Successors<'a> = dyn FnMut(&dyn Fn(&mut World)) + 'a;

impl World {
    pub(super) fn new(servers: usize, wanted: usize, minds: u8, crashes: u8) -> Self {
        let all: BTreeSet<Ordinal> = (0..servers).collect();
        Self {
            wanted,
            minds,
            crashes,
            pods: servers,
            routes: servers,
            placed: all.clone(),
            loaded: all.iter().map(|ordinal| (*ordinal, servers)).collect(),
            volumes: all.clone(),
            members: all.clone(),
            leader: Some(servers - 1),
            copies: servers,
            holders: all.iter().map(|ordinal| (*ordinal, true)).collect(),
            stream_leader: Some(servers - 1),
            ..Self::default()
        }
    }

    /// The same, where so many pods may get their nodes in the middle of a step.
    pub(super) fn with_races(self, races: u8) -> Self {
        Self { races, ..self }
    }

    fn runs(&self, ordinal: Ordinal) -> bool {
        self.loaded.contains_key(&ordinal)
    }

    fn is_alive(&self, ordinal: Ordinal) -> bool {
        self.runs(ordinal) && self.members.contains(&ordinal)
    }

    fn has_quorum(&self) -> bool {
        self.members.iter().filter(|member| self.runs(**member)).count() > self.members.len() / 2
    }

    fn is_moving(&self) -> bool {
        self.holders.len() != self.copies || self.leaving.iter().any(|from| self.holders.contains_key(from))
    }

    fn site(&self) -> Site {
        Site {
            names: (0..MAX_SERVERS).map(name).collect(),
            digests: vec![self.routes.to_string(); MAX_SERVERS],
            routes: self.routes,
            pods: self.pods,
            present: self.placed.clone(),
            placed: self.placed.clone(),
            volumes: self.volumes.clone(),
        }
    }

    fn observed(&self) -> Observed {
        let server = |(ordinal, loaded): (&Ordinal, &usize)| {
            let is_member = self.members.contains(ordinal);
            let cluster = if is_member {
                let is_settled = self.members.iter().all(|member| self.runs(*member));
                // Only the leader knows who was let in; the others know how many there are.
                let members =
                    if self.leader == Some(*ordinal) { self.members.clone() } else { BTreeSet::from([*ordinal]) };
                Cluster { leader: self.leader, members, size: self.members.len(), is_settled }
            } else {
                Cluster { leader: None, members: BTreeSet::from([*ordinal]), size: 0, is_settled: true }
            };
            let cluster = (!self.disabled.contains(ordinal)).then_some(cluster);
            let holds = usize::from(self.holders.contains_key(ordinal));
            (*ordinal, Server { id: name(*ordinal), digest: loaded.to_string(), cluster, holds })
        };
        let stream = Stream {
            copies: self.copies,
            leader: self.stream_leader,
            is_moving: self.is_moving(),
            holders: self.holders.iter().filter(|(at, _)| self.runs(**at)).map(|(at, has)| (*at, *has)).collect(),
        };
        let id = StreamId { account: "A".into(), name: STREAM.into() };
        Observed { servers: self.loaded.iter().map(server).collect(), streams: BTreeMap::from([(id, stream)]) }
    }

    pub(super) fn next(&self) -> Next {
        plan(&self.site(), &self.observed(), self.wanted)
    }

    pub(super) fn is_done(&self) -> bool {
        self.pending.is_none()
            && self.next() == Next::Done
            && (self.pods, self.routes, self.copies) == (self.wanted, self.wanted, self.wanted)
            && self.members == (0..self.wanted).collect()
            && self.volumes == self.members
    }

    /// All that can happen now.
    pub(super) fn successors(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            world.elect();
            all.push(world);
        };
        match &self.pending {
            Some(step) => {
                add(&|world| world.pending = None);
                add(&|world| {
                    world.pending = None;
                    world.apply(step);
                });
            }
            None => {
                if let Next::Act(step) = self.next() {
                    add(&|world| world.pending = Some(pending(&step)));
                }
            }
        }
        for at in 0..MAX_SERVERS {
            self.of_server(at, &mut add);
        }
        self.of_stream(&mut add);
        if self.minds > 0 {
            for wanted in [1, 3].into_iter().filter(|wanted| *wanted != self.wanted) {
                add(&|world| (world.wanted, world.minds) = (wanted, world.minds - 1));
            }
        }
        all
    }

    fn of_server(&self, at: Ordinal, add: &mut Successors<'_>) {
        // A pod does not get a node, start and join between a look at the pods and what follows from it; but if it does, the
        // broker comes out of that too.
        let is_stopping = matches!(self.pending, Some(Pending::Pods(pods)) if pods < self.pods);
        let is_placed = self.placed.contains(&at);
        if at < self.pods && !is_placed && (!is_stopping || self.races > 0) {
            add(&|world| {
                world.volumes.insert(at);
                world.placed.insert(at);
                if is_stopping {
                    (world.races, world.has_raced) = (world.races - 1, true);
                }
            });
        }
        if is_placed && !self.runs(at) {
            // After a race it may be one that was removed: it comes back as one does that the kubelet restarts.
            assert!(
                !self.stale.contains(&at) || self.has_raced,
                "a server begins with what a removed one had: {self:?}"
            );
            add(&|world| {
                world.loaded.insert(at, world.routes);
                world.stale.remove(&at);
            });
        }
        if at >= self.pods && is_placed {
            assert!(!self.members.contains(&at) || self.has_raced, "a member is stopped: {self:?}");
            add(&|world| {
                world.stop(at);
                world.placed.remove(&at);
                if !world.members.contains(&at) {
                    world.stale.insert(at);
                }
            });
        }
        let is_routed = self.leader.is_some_and(|leader| self.loaded.get(&leader).is_some_and(|routes| *routes > at));
        let may_join = !self.banned.contains(&at) && !self.disabled.contains(&at) && is_routed;
        if self.runs(at) && !self.members.contains(&at) && may_join {
            add(&|world| {
                world.members.insert(at);
            });
        }
        // Five minutes are longer than a look, a step and the end of a pod.
        let is_ending = self.placed.iter().any(|at| *at >= self.pods);
        if self.banned.contains(&at) && !is_ending && self.pending.is_none() {
            add(&|world| {
                world.banned.remove(&at);
            });
        }
        if self.disabled.contains(&at) && at < self.pods && !is_stopping {
            // The kubelet restarts a server that stores nothing.
            add(&|world| {
                world.disabled.remove(&at);
            });
        }
        let others_run = self.loaded.len() == self.pods.max(self.members.len());
        if self.crashes > 0 && self.is_alive(at) && at < self.pods && others_run {
            add(&|world| {
                world.crashes -= 1;
                world.stop(at);
            });
        }
        // The leader moves as it likes, and to where it is wanted only if it is told.
        if self.is_alive(at) && self.leader < Some(at) {
            add(&|world| world.leader = Some(at));
        }
    }

    fn of_stream(&self, add: &mut Successors<'_>) {
        let Some(leader) = self.stream_leader.filter(|_| self.has_quorum()) else { return };
        let staying = self.holders.keys().filter(|at| !self.leaving.contains(at)).count();
        let free = |at: &Ordinal| !self.holders.contains_key(at) && !self.leaving.contains(at);
        let mut free: Vec<Ordinal> = self.members.iter().copied().filter(free).collect();
        if !self.leaving.is_empty() {
            // What moves goes where it is wanted least.
            free = free.pop().into_iter().collect();
        }
        for at in free.into_iter().filter(|_| staying < self.copies) {
            add(&|world| {
                world.holders.insert(at, false);
            });
        }
        let whole = |at: &Ordinal| self.holders[at] && self.runs(*at);
        for at in self.holders.keys().copied().filter(|at| self.runs(*at)) {
            if !self.holders[&at] {
                add(&|world| {
                    world.holders.insert(at, true);
                });
            }
            let others = self.holders.keys().filter(|other| **other != at && whole(other)).count();
            let is_too_many = self.holders.len() > self.copies;
            let goes = if self.leaving.is_empty() { at != leader } else { self.leaving.contains(&at) };
            if is_too_many && goes && others > 0 && others >= self.copies.min(2) {
                add(&|world| {
                    world.holders.remove(&at);
                    world.leaving.remove(&at);
                });
            }
            if at != leader && self.holders[&at] && self.is_moving() {
                add(&|world| world.stream_leader = Some(at));
            }
        }
    }

    fn apply(&mut self, step: &Pending) {
        match *step {
            Pending::Routes(routes) => self.routes = routes,
            Pending::Pods(pods) => self.pods = pods,
            Pending::Reload(at) => {
                if let Some(loaded) = self.loaded.get_mut(&at) {
                    *loaded = self.routes;
                }
            }
            Pending::Volume(at) => {
                let is_needed = self.members.contains(&at) || self.runs(at) || self.holders.contains_key(&at);
                assert!(!is_needed, "a volume that is needed is deleted: {self:?}");
                self.volumes.remove(&at);
                self.stale.remove(&at);
            }
            _ if !self.has_quorum() => {}
            // One that has as many by now is waited for, and not told again.
            Pending::Copies(copies) if self.copies == copies => {}
            Pending::Copies(copies) => {
                // The servers choose anew where it lies.
                self.copies = copies;
                self.leaving.clear();
            }
            Pending::StepDown(at) => {
                if self.holders.get(&at) == Some(&true) && self.runs(at) {
                    self.stream_leader = Some(at);
                }
            }
            Pending::Evacuate(at) => {
                // Refused where there is no other place.
                if self.holders.contains_key(&at) && self.members.len() > self.copies {
                    self.leaving.insert(at);
                }
            }
            Pending::MetaStepDown(at) => {
                if self.is_alive(at) {
                    self.leader = Some(at);
                }
            }
            Pending::Remove(at) => {
                if self.members.contains(&at) && self.leader != Some(at) {
                    assert!(!self.holders.contains_key(&at), "it is removed with what lies on it: {self:?}");
                    self.members.remove(&at);
                    self.banned.insert(at);
                    if self.runs(at) {
                        self.disabled.insert(at);
                    }
                }
            }
        }
    }

    fn stop(&mut self, at: Ordinal) {
        self.loaded.remove(&at);
        self.disabled.remove(&at);
    }

    /// Leaders that are gone are replaced where there is a majority, and a leader that was restarted knows of no ban.
    fn elect(&mut self) {
        if self.leader.is_some_and(|leader| !self.is_alive(leader)) {
            self.leader = None;
            self.banned.clear();
        }
        if self.leader.is_none() && self.has_quorum() {
            self.leader = self.members.iter().copied().find(|at| self.runs(*at));
        }
        let whole = |at: &Ordinal| self.holders.get(at) == Some(&true) && self.runs(*at);
        if self.stream_leader.is_none_or(|leader| !whole(&leader)) {
            self.stream_leader = self.holders.keys().copied().find(whole);
        }
        self.leaving.retain(|at| self.holders.contains_key(at));
        assert!(self.holders.iter().any(|(at, has)| *has && self.volumes.contains(at)), "lost: {self:?}");
    }
}

fn pending(step: &Step) -> Pending {
    match step {
        Step::Site(SiteStep::SetRoutes(routes)) => Pending::Routes(*routes),
        Step::Site(SiteStep::SetPods(pods)) => Pending::Pods(*pods),
        Step::Site(SiteStep::RemoveVolume(at)) => Pending::Volume(*at),
        Step::Broker(BrokerStep::Reload { name, .. }) => Pending::Reload(ordinal(name)),
        Step::Broker(BrokerStep::SetCopies { copies, .. }) => Pending::Copies(*copies),
        Step::Broker(BrokerStep::StepDown(streams)) => Pending::StepDown(ordinal(&streams[0].1)),
        Step::Broker(BrokerStep::Evacuate { name, .. }) => Pending::Evacuate(ordinal(name)),
        Step::Broker(BrokerStep::MetaStepDown(name)) => Pending::MetaStepDown(ordinal(name)),
        Step::Broker(BrokerStep::RemoveServer(name)) => Pending::Remove(ordinal(name)),
    }
}
