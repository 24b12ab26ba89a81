use super::super::{Cluster, Server, Stream, StreamId};
use super::*;

const NEW: PodState = PodState { is_outdated: false, is_ready: true, is_running: true, is_ending: false };
const OLD: PodState = PodState { is_outdated: true, ..NEW };

fn site(pods: usize) -> Site {
    Site { names: (0..5).map(|ordinal| format!("b-{ordinal}")).collect(), pods, ..Site::default() }
}

fn pods(states: &[PodState]) -> BTreeMap<Ordinal, PodState> {
    states.iter().copied().enumerate().collect()
}

/// As many servers, led by one of them, with a stream that lies on all.
fn observed(count: usize, leader: Ordinal) -> Observed {
    let cluster = Cluster { leader: Some(leader), members: (0..count).collect(), size: count, is_settled: true };
    let server = |ordinal: Ordinal| Server {
        id: format!("S{ordinal}"),
        digest: String::new(),
        cluster: Some(cluster.clone()),
        holds: 1,
    };
    let stream = Stream {
        copies: count,
        leader: Some(0),
        holders: (0..count).map(|ordinal| (ordinal, true)).collect(),
        ..Stream::default()
    };
    Observed {
        servers: (0..count).map(|ordinal| (ordinal, server(ordinal))).collect(),
        streams: BTreeMap::from([(StreamId { account: "A".into(), name: "events".into() }, stream)]),
    }
}

fn next(states: &[PodState], observed: Option<&Observed>) -> Restart {
    next_restart(&site(states.len()), &pods(states), observed)
}

fn waits_for(found: &Restart, word: &str) -> bool {
    matches!(found, Restart::Wait(wait) if wait.to_string().contains(word))
}

#[test]
fn one_after_the_other_and_the_leader_last() {
    let whole = |leader| observed(3, leader);
    assert_eq!(next(&[NEW, NEW, NEW], None), Restart::Done);
    assert_eq!(next(&[OLD, NEW, NEW], None), Restart::Observe);
    for (states, leader, expected) in [
        ([OLD, OLD, OLD], 0, Restart::Pod(2)),
        ([OLD, OLD, OLD], 2, Restart::Pod(1)),
        ([OLD, OLD, NEW], 0, Restart::Pod(1)),
        ([OLD, NEW, NEW], 1, Restart::Pod(0)),
        ([OLD, NEW, NEW], 0, Restart::Lead(1)),
        ([NEW, NEW, OLD], 2, Restart::Lead(0)),
        ([NEW, OLD, NEW], 1, Restart::Lead(0)),
    ] {
        assert_eq!(next(&states, Some(&whole(leader))), expected, "{states:?}, {leader} leads");
    }
}

#[test]
fn a_server_on_its_own_waits_for_nobody() {
    assert_eq!(next(&[OLD], None), Restart::Pod(0));
    assert_eq!(next(&[PodState { is_ready: false, ..OLD }], None), Restart::Pod(0));
    let ending = PodState { is_ending: true, ..OLD };
    assert!(waits_for(&next(&[ending], None), "b-0"), "it is restarted once");
}

#[test]
fn nothing_is_restarted_while_a_pod_is_away() {
    let unready = PodState { is_ready: false, ..NEW };
    assert!(waits_for(&next(&[OLD, unready, OLD], None), "b-1"));
    assert!(waits_for(&next(&[OLD, OLD, PodState { is_ending: true, ..OLD }], None), "b-2"));
    let missing = pods(&[OLD, NEW]);
    assert!(waits_for(&next_restart(&site(3), &missing, None), "b-2"));
    // Also if the servers say that all is well.
    assert!(waits_for(&next(&[OLD, unready, OLD], Some(&observed(3, 0))), "b-1"));
}

/// What stops it may be what is changed: an image that cannot be had, a resource that no node has.
#[test]
fn a_pod_that_does_not_run_is_restarted_first() {
    let stuck = PodState { is_running: false, is_ready: false, ..OLD };
    assert_eq!(next(&[OLD, stuck, OLD], None), Restart::Pod(1));
    let starting = PodState { is_outdated: false, ..stuck };
    assert!(waits_for(&next(&[OLD, starting, OLD], None), "b-1"), "it is of the new kind already");
}

#[test]
fn nothing_is_restarted_while_a_server_lacks_anything() {
    let states = [OLD, OLD, OLD];
    let broken = |change: &dyn Fn(&mut Observed)| {
        let mut observed = observed(3, 0);
        change(&mut observed);
        next(&states, Some(&observed))
    };
    let away = broken(&|it| {
        it.servers.remove(&2);
    });
    assert!(waits_for(&away, "b-2"), "{away:?}");
    let leaderless = broken(&|it| {
        for server in it.servers.values_mut() {
            server.cluster.as_mut().unwrap().leader = None;
        }
    });
    assert!(waits_for(&leaderless, "choose a leader"), "{leaderless:?}");
    for change in [
        (&|it: &mut Observed| it.servers.get_mut(&1).unwrap().cluster.as_mut().unwrap().leader = Some(1))
            as &dyn Fn(&mut Observed),
        &|it| it.servers.get_mut(&1).unwrap().cluster.as_mut().unwrap().size = 2,
        &|it| it.servers.get_mut(&0).unwrap().cluster.as_mut().unwrap().is_settled = false,
        &|it| it.servers.get_mut(&2).unwrap().cluster = None,
    ] {
        let found = broken(change);
        assert!(waits_for(&found, "agree"), "{found:?}");
    }
    for change in [
        (&|stream: &mut Stream| {
            stream.holders.insert(1, false);
        }) as &dyn Fn(&mut Stream),
        &|stream| {
            stream.holders.remove(&1);
        },
        &|stream| stream.leader = None,
        &|stream| stream.is_moving = true,
    ] {
        let found = broken(&|it| it.streams.values_mut().for_each(change));
        assert!(waits_for(&found, "every copy"), "{found:?}");
    }
}
