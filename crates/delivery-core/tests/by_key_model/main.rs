//! Walks through the whole discipline of order by key: all lanes of a sidecar, and a broker that pins and redelivers,
//! restarts in order or with what it knew some time ago, refuses and ends pulls, and whose messages get lost; a handler
//! that goes away, lanes that come and go, a drain at any moment.
//!
//! The events of a key start in order and once, no more attempts run than may, and whatever has happened, when it stops
//! happening everything is settled within two leases, or the drain ends. What two owners do to each other is in
//! `tests/lane_model`.

#![allow(clippy::unwrap_used)]

mod broker;
mod world;

use std::time::Duration;

use broker::ACK_WAIT;
use tidegate_delivery_core::lane::timing::Rules;
use tidegate_delivery_core::{Disposition, Handler, InboxReport, Input, Lane, Outcome, Trouble};
use world::{LANES, World};

/// Events of a lane.
const EVENTS: u64 = 12;
const STEPS: usize = 150;
const HANDLED: Disposition = Disposition::Over(Outcome::Acknowledged);

/// One thing happens, by chance.
fn step(world: &mut World, random: &mut fastrand::Rng, troubles: &mut usize) {
    let lane: Lane = random.u16(0..LANES);
    let running = world.running();
    let trouble = *troubles > 0 && random.u8(0..10) == 0;
    if trouble {
        *troubles -= 1;
        return harm(world, random, lane);
    }
    match random.u8(0..8) {
        0 | 1 if world.lanes[usize::from(lane)].published < EVENTS => world.publish(lane),
        2 | 3 if !running.is_empty() => world.finish(running[random.usize(0..running.len())], HANDLED),
        4 => world.tick(),
        _ if world.has_coming() => world.receive(),
        _ => world.tick(),
    }
}

fn harm(world: &mut World, random: &mut fastrand::Rng, lane: Lane) {
    let running = world.running();
    match random.u8(0..13) {
        0 => world.reconnect(),
        1 => world.restart(false),
        2 => world.restart(true),
        3 => world.lanes.iter_mut().for_each(|lane| lane.save(world.now)),
        4 => world.refuse(lane, InboxReport::Lost(Trouble::Moved)),
        5 => world.refuse(lane, InboxReport::Ended(1)),
        6 => world.lanes[usize::from(lane)].unpin(),
        7 => world.turn(Handler::Away),
        8 => world.turn(Handler::Up),
        9 => world.take(Input::Lanes(if random.bool() { [lane].into() } else { (0..LANES).collect() })),
        10 if !running.is_empty() => {
            world.finish(running[random.usize(0..running.len())], Disposition::RetryIn(Duration::from_millis(500)));
        }
        11 => world.refuse(lane, InboxReport::Lost(Trouble::Ending)),
        _ => world.lose(),
    }
}

/// A walk of many steps, then a world in which nothing goes wrong any more.
fn heals(rules: Rules, seed: u64) -> Result<(), &'static str> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut world, mut troubles) = (World::new(rules), random.usize(0..8));
    for _ in 0..random.usize(0..STEPS) {
        step(&mut world, &mut random, &mut troubles);
    }
    world.turn(Handler::Up);
    world.take(Input::Lanes((0..LANES).collect()));
    if random.u8(0..4) == 0 {
        world.drain();
    }
    let end = world.now + 2 * ACK_WAIT;
    while !world.is_settled() && !world.is_drained() && world.broken.is_none() {
        while world.has_coming() {
            world.receive();
        }
        world.running().into_iter().for_each(|id| world.finish(id, HANDLED));
        if world.now > end {
            return Err("something waits for too long");
        }
        world.tick();
    }
    world.broken.map_or(Ok(()), Err)
}

#[test]
fn every_world_heals_soon() {
    for seed in 0..3000 {
        assert_eq!(heals(Rules::default(), seed), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_memory_is_needed() {
    let rules = Rules { memory: false, ..Rules::default() };
    let broken = Err("it started again where it was handled");
    assert!((0..3000).any(|seed| heals(rules, seed) == broken), "without a memory nothing breaks");
}
