use std::collections::{BTreeMap, BTreeSet};

use super::super::{Cluster, MAX_SERVERS, Server, Stream};
use super::*;

/// So many pods, of which these servers are members and run.
fn site(pods: usize, placed: &[Ordinal]) -> Site {
    Site {
        names: (0..MAX_SERVERS).map(|ordinal| format!("b-{ordinal}")).collect(),
        digests: vec!["d".into(); MAX_SERVERS],
        routes: pods,
        pods,
        present: (0..pods).collect(),
        placed: placed.iter().copied().collect(),
        volumes: (0..pods).collect(),
    }
}

fn observed(members: usize, streams: &[Stream]) -> Observed {
    let members: BTreeSet<Ordinal> = (0..members).collect();
    let cluster = Cluster { leader: Some(0), size: members.len(), members: members.clone(), is_settled: true };
    let server = |ordinal| {
        let (id, digest) = (format!("S{ordinal}"), "d".to_owned());
        (ordinal, Server { id, digest, cluster: Some(cluster.clone()), holds: streams.len() })
    };
    let id = |number| StreamId { account: "A".into(), name: format!("s{number}") };
    Observed {
        servers: members.into_iter().map(server).collect(),
        streams: streams.iter().enumerate().map(|(number, stream)| (id(number), stream.clone())).collect(),
    }
}

fn stream(leader: Ordinal, holders: [bool; 3]) -> Stream {
    let holders: BTreeMap<Ordinal, bool> = holders.into_iter().enumerate().collect();
    Stream { copies: 3, leader: Some(leader), is_moving: false, holders }
}

#[test]
fn copies_are_taken_away_only_where_all_of_them_are_whole() {
    // The servers keep the leader's: where the others differ from it, it may be the one that lacks something.
    let damaged = stream(0, [true, false, false]);
    let site = site(3, &[0, 1, 2]);
    assert_eq!(plan(&site, &observed(3, std::slice::from_ref(&damaged)), 1), Next::Wait(Wait::Copying(1)));
    let Next::Act(Step::Broker(step)) = plan(&site, &observed(3, &[damaged, stream(0, [true; 3])]), 1) else {
        panic!("the other stream can go on");
    };
    let whole = StreamId { account: "A".into(), name: "s1".into() };
    assert_eq!(step, BrokerStep::SetCopies { streams: vec![whole], copies: 1 });
}

#[test]
fn copies_are_added_also_where_one_is_not_whole() {
    let one = Stream { copies: 1, leader: Some(0), is_moving: false, holders: BTreeMap::from([(0, false)]) };
    let next = plan(&site(3, &[0, 1, 2]), &observed(3, &[one]), 3);
    assert!(matches!(next, Next::Act(Step::Broker(BrokerStep::SetCopies { copies: 3, .. }))), "{next:?}");
}

#[test]
fn a_server_that_runs_and_says_nothing_yet_is_not_stopped() {
    // It may be about to join, and a member that is stopped takes the majority with it.
    let alone = observed(1, &[]);
    let starting = site(3, &[0, 2]);
    assert_eq!(plan(&starting, &alone, 1), Next::Wait(Wait::Joining(vec!["b-2".into()])));
    let without = site(3, &[0]);
    assert_eq!(plan(&without, &alone, 1), Next::Act(Step::Site(SiteStep::SetPods(1))), "none of them can start");
}

#[test]
fn a_member_that_was_stopped_is_started_again() {
    let again = |pods| Next::Act(Step::Site(SiteStep::SetPods(pods)));
    let mut site = Site { volumes: (0..2).collect(), ..site(1, &[0]) };
    let mut seen = observed(2, &[]);
    seen.servers.remove(&1);
    assert_eq!(plan(&site, &seen, 1), again(2), "a leader says which one");
    // It has no majority, and knows only how many there are.
    let cluster = Cluster { leader: None, members: BTreeSet::from([0]), size: 2, is_settled: true };
    seen.servers.get_mut(&0).unwrap().cluster = Some(cluster);
    assert_eq!(plan(&site, &seen, 1), again(2));
    site.pods = 2;
    assert_eq!(plan(&site, &seen, 1), Next::Wait(Wait::Leader), "its pod is to come");
    site.pods = 1;
    seen.servers.get_mut(&0).unwrap().cluster.as_mut().unwrap().size = 1;
    assert_eq!(plan(&site, &seen, 1), Next::Wait(Wait::Leader), "an election, and a volume that a removed one left");
}

#[test]
fn what_takes_copies_away_is_known() {
    let three = observed(3, &[stream(0, [true; 3])]);
    let set = |copies| BrokerStep::SetCopies { streams: three.streams.keys().cloned().collect(), copies };
    let name = || "b-2".to_owned();
    for (step, takes) in [
        (set(1), true),
        (set(5), false),
        (BrokerStep::StepDown(Vec::new()), true),
        (BrokerStep::Evacuate { name: name(), single: Vec::new() }, true),
        (BrokerStep::RemoveServer(name()), true),
        (BrokerStep::MetaStepDown(name()), false),
        (BrokerStep::Reload { id: name(), name: name() }, false),
    ] {
        assert_eq!(step.takes_copies_away(&three), takes, "{step:?}");
    }
}
