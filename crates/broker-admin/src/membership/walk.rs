//! Every way that a change can take, on a model of the servers: steps that are done late, pods that crash and start, leaders
//! that move, names that are not taken back, a user who changes their mind. From every state that can be reached the
//! broker comes to what is wanted, no server is stopped that is a member, and the stream is whole somewhere at all times.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::*;

const STREAM: &str = "events";

/// The servers, their pods and one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    wanted: usize,
    /// How often the user may change their mind.
    minds: u8,
    /// How often a server may crash.
    crashes: u8,
    pods: usize,
    routes: usize,
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
    fn new(servers: usize, wanted: usize, minds: u8, crashes: u8) -> Self {
        let all: BTreeSet<Ordinal> = (0..servers).collect();
        Self {
            wanted,
            minds,
            crashes,
            pods: servers,
            routes: servers,
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
            present: self.loaded.keys().copied().collect(),
            running: self.loaded.keys().copied().collect(),
            volumes: self.volumes.clone(),
        }
    }

    fn observed(&self) -> Observed {
        let server = |(ordinal, loaded): (&Ordinal, &usize)| {
            let is_member = self.members.contains(ordinal);
            let cluster = if is_member {
                let is_settled = self.members.iter().all(|member| self.runs(*member));
                Cluster { leader: self.leader, members: self.members.clone(), size: self.members.len(), is_settled }
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

    fn next(&self) -> Next {
        plan(&self.site(), &self.observed(), self.wanted)
    }

    fn is_done(&self) -> bool {
        self.pending.is_none()
            && self.next() == Next::Done
            && (self.pods, self.routes, self.copies) == (self.wanted, self.wanted, self.wanted)
            && self.members == (0..self.wanted).collect()
            && self.volumes == self.members
    }

    /// All that can happen now.
    fn successors(&self) -> Vec<Self> {
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
        // A pod does not start and join in the moment between a look and what follows from it.
        let is_stopping = matches!(self.pending, Some(Pending::Pods(pods)) if pods < self.pods);
        if at < self.pods && !self.runs(at) && !is_stopping {
            assert!(!self.stale.contains(&at), "a server begins with what a removed one had: {self:?}");
            add(&|world| {
                world.volumes.insert(at);
                world.loaded.insert(at, world.routes);
            });
        }
        if at >= self.pods && self.runs(at) {
            assert!(!self.members.contains(&at), "a member is stopped: {self:?}");
            add(&|world| {
                world.stop(at);
                world.stale.insert(at);
            });
        }
        let is_routed = self.leader.is_some_and(|leader| self.loaded.get(&leader).is_some_and(|routes| *routes > at));
        let may_join = !self.banned.contains(&at) && !self.disabled.contains(&at) && is_routed && !is_stopping;
        if self.runs(at) && !self.members.contains(&at) && may_join {
            add(&|world| {
                world.members.insert(at);
            });
        }
        // Five minutes are longer than a look, a step and the end of a pod.
        let is_ending = self.loaded.keys().any(|at| *at >= self.pods);
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

/// Walks through everything that can be reached, and answers how many states that are.
fn walk(begin: World) -> usize {
    let (mut known, mut before): (HashMap<World, usize>, Vec<Vec<usize>>) = (HashMap::new(), vec![Vec::new()]);
    let (mut queue, mut done) = (VecDeque::from([begin.clone()]), Vec::new());
    known.insert(begin, 0);
    while let Some(world) = queue.pop_front() {
        let from = known[&world];
        if world.is_done() {
            done.push(from);
        }
        for next in world.successors() {
            let number = known.len();
            let to = *known.entry(next.clone()).or_insert(number);
            if to == number {
                before.push(Vec::new());
                queue.push_back(next);
            }
            before[to].push(from);
        }
    }
    let mut reaches = vec![false; before.len()];
    while let Some(state) = done.pop() {
        if !std::mem::replace(&mut reaches[state], true) {
            done.extend(&before[state]);
        }
    }
    let stuck = known.iter().find(|(_, number)| !reaches[**number]);
    assert!(stuck.is_none(), "this comes to no end: {:#?}\n{:?}", stuck, stuck.map(|(world, _)| world.next()));
    known.len()
}

#[test]
fn one_becomes_three_and_three_become_one_whatever_happens() {
    for (from, to) in [(1, 3), (3, 1)] {
        let states = walk(World::new(from, to, 0, 2));
        assert!(states > 300, "{from} to {to}: {states} states");
    }
}

#[test]
fn a_user_may_change_their_mind_at_any_moment() {
    for (from, to) in [(1, 3), (3, 1)] {
        walk(World::new(from, to, 2, 1));
    }
}

#[test]
fn three_become_five_and_five_become_three() {
    for (from, to) in [(3, 5), (5, 3), (1, 5), (5, 1)] {
        let states = walk(World::new(from, to, 0, 1));
        assert!(states > 300, "{from} to {to}: {states} states");
    }
}
