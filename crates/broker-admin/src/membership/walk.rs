//! Every way that a change can take, on a model of the servers: steps that are done late, pods that crash and start, leaders
//! that move, names that are not taken back, a user who changes their mind. From every state that can be reached the
//! broker comes to what is wanted, no server is stopped that is a member, and the stream is whole somewhere at all times.

use std::collections::{HashMap, VecDeque};

use super::world::World;

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
fn a_member_that_was_stopped_runs_again_and_is_removed() {
    walk(World::new(1, 3, 1, 0).with_races(1));
}

#[test]
fn three_become_five_and_five_become_three() {
    for (from, to) in [(3, 5), (5, 3), (1, 5), (5, 1)] {
        let states = walk(World::new(from, to, 0, 1));
        assert!(states > 300, "{from} to {to}: {states} states");
    }
}
