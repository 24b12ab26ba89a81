//! The ledger in the situations that count.

use tidegate_broker_client::contract::Flush;

use super::model::{Fate, Sent, Step, World};
use super::*;

fn events(count: u64) -> Vec<(u64, usize)> {
    (0..count).map(|id| (id, 300)).collect()
}

fn sent(world: &World) -> Vec<usize> {
    world.server.to.iter().map(|sent| if let Sent::Batch(_, members) = sent { members.len() } else { 1 }).collect()
}

/// The server gets so many, and the ledger its answers.
fn serve_all(world: &mut World, count: usize) {
    for _ in 0..count {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
}

#[test]
fn a_request_with_many_events_is_one_batch_and_each_is_told_its_own_sequence() {
    let mut world = World::new(Flush::PerCommit);
    world.server.sequence = 41;
    world.step(Step::Submit(events(1000)));
    assert_eq!(sent(&world), [1000]);
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    for ticket in 0..1000 {
        let stored = Stored { sequence: 42 + ticket, duplicate: false };
        assert_eq!(world.outcomes[&ticket], Outcome::Stored(stored));
    }
}

#[test]
fn what_waits_while_a_batch_is_under_way_is_the_next() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(50)));
    for id in 100..200 {
        world.step(Step::Submit(vec![(id, 300)]));
    }
    assert_eq!(sent(&world), [50], "nothing beside it");
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    world.step(Step::Pass(50));
    assert_eq!(sent(&world), [100]);
}

#[test]
fn a_known_id_costs_its_neighbours_nothing_but_a_second_try() {
    let mut world = World::new(Flush::PerCommit);
    world.server.stored.insert(7, 3);
    world.server.sequence = 10;
    world.step(Step::Submit(events(30)));
    assert_eq!(sent(&world), [30], "this ingress has not seen it before");
    for _ in 0..31 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert_eq!(world.outcomes[&7], Outcome::Stored(Stored { sequence: 3, duplicate: true }));
    assert_eq!(world.outcomes[&29], Outcome::Stored(Stored { sequence: 39, duplicate: false }));
    // From now on it is known here, too, and goes alone: the others are a batch again as soon as that is tried.
    world.step(Step::Pass(100));
    world.step(Step::Submit((0..30).map(|id| (if id == 0 { 7 } else { 100 + id }, 300)).collect()));
    assert_eq!(sent(&world), [1, 29]);
}

/// They might be refused again and again.
#[test]
fn what_was_refused_as_a_batch_for_another_reason_is_never_in_one_again() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(100)));
    world.step(Step::Serve(Fate::Refused));
    world.step(Step::Answer);
    world.step(Step::Pass(1000));
    for _ in 0..100 {
        assert!(sent(&world).iter().all(|size| *size == 1));
        serve_all(&mut world, 1);
    }
    assert_eq!(world.outcomes.len(), 100);
}

/// A publisher that repeats an old event, which this ingress does not remember, does not end its neighbours' batches.
#[test]
fn one_repetition_among_many_costs_few_commits() {
    let mut world = World::new(Flush::PerCommit);
    world.server.stored.insert(400, 3);
    world.server.sequence = 10;
    world.step(Step::Submit(events(1000)));
    let (mut single, mut batches) = (0, 0);
    while let Some(size) = sent(&world).first() {
        *(if *size == 1 { &mut single } else { &mut batches }) += 1;
        serve_all(&mut world, 1);
        world.step(Step::Pass(1));
    }
    // The last few, and what goes while batches pause for 0.1 s.
    assert!(single < 48 + 100 && batches < 24, "{single} events one by one, {batches} batches");
    assert!(world.outcomes.values().all(|outcome| matches!(outcome, Outcome::Stored(_))));
    assert_eq!(world.outcomes.len(), 1000);
}

#[test]
fn a_stream_that_takes_no_batches_is_not_asked_again_at_once() {
    let mut world = World::new(Flush::PerCommit);
    world.server.batches = false;
    world.step(Step::Submit(events(30)));
    for _ in 0..31 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert_eq!(world.outcomes.len(), 30);
    let next = |from: u64| Step::Submit((from..from + 30).map(|id| (id, 300)).collect());
    world.step(Step::Pass(29_000));
    world.step(next(100));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Pass(1000));
    world.step(next(200));
    assert_eq!(sent(&world), [[1; 16].as_slice(), &[44]].concat());
}

/// It must not keep its places until its time is over: with all of them taken nothing would be sent for that long.
#[test]
fn what_is_lost_with_its_connection_ends_with_it() {
    let mut world = World::new(Flush::PerCommit);
    for id in 0..16 {
        world.step(Step::Submit(vec![(id, 300)]));
    }
    world.step(Step::Connected(false));
    assert_eq!(world.outcomes.len(), 16);
    assert!(world.outcomes.values().all(|outcome| *outcome == Outcome::Failed(Failure::Unavailable)));
    world.step(Step::Connected(true));
    world.step(Step::Submit(vec![(100, 300)]));
    assert_eq!(sent(&world), [1]);
    world.end();
}

#[test]
fn a_refused_batch_has_nothing_more_of_a_request_that_has_failed() {
    let mut world = World::new(Flush::PerCommit);
    // No batch just now, so that the request begins one by one.
    world.server.stored.insert(999, 1);
    world.step(Step::Submit((990..1020).map(|id| (id, 300)).collect()));
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    (0..30).for_each(|_| {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    });
    world.server.stored.insert(59, 2);
    world.step(Step::Submit(events(60)));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Pass(100));
    assert_eq!(sent(&world).last(), Some(&44), "the pause is over");
    world.step(Step::Serve(Fate::Refused));
    world.step(Step::Answer);
    (0..16).for_each(|_| {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    });
    let first = world.requests[1][0];
    assert!(matches!(world.outcomes[&first], Outcome::Failed(_)));
    assert!((16..60).all(|event| world.outcomes[&(first + event)] == Outcome::Skipped));
}

#[test]
fn a_full_stream_takes_what_fits_and_the_rest_is_not_sent() {
    let mut world = World::new(Flush::PerCommit);
    world.server.room = 10;
    world.step(Step::Submit(events(60)));
    for _ in 0..30 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    let stored = world.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Stored(_))).count();
    let skipped = world.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Skipped)).count();
    assert_eq!((stored, world.outcomes[&10]), (10, Outcome::Failed(Failure::Full)));
    assert!(skipped >= 30, "{skipped}");
    world.end();
}

/// The answer is lost with its connection: those that were stored are recognised.
#[test]
fn a_batch_whose_answer_is_lost_is_repeated_one_by_one() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(30)));
    world.step(Step::Serve(Fate::AnswerLost));
    world.step(Step::Connected(false));
    assert_eq!(sent(&world).len(), 0);
    world.step(Step::Connected(true));
    assert_eq!(sent(&world), [1; 16]);
    serve_all(&mut world, 30);
    for ticket in 0..30 {
        assert_eq!(world.outcomes[&ticket], Outcome::Stored(Stored { sequence: ticket + 1, duplicate: true }));
    }
}

/// The connection lives and the answer does not come. The members have half of their time for a second try; that they
/// are recognised proves nothing, until something is stored that was not there.
#[test]
fn after_a_batch_without_an_answer_a_repetition_counts_when_the_store_still_writes() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(30)));
    world.step(Step::Serve(Fate::AnswerLost));
    world.step(Step::Pass(2499));
    assert_eq!(sent(&world).len(), 0);
    world.step(Step::Pass(1));
    assert_eq!(sent(&world), [1; 16]);
    serve_all(&mut world, 1);
    assert_eq!(world.outcomes[&0], Outcome::Failed(Failure::Timeout));
    serve_all(&mut world, 15);
    // Its publisher repeats the first, before and after an event of another is stored.
    for id in [0, 100, 0] {
        world.step(Step::Submit(vec![(id, 300)]));
        serve_all(&mut world, 1);
    }
    let stored = |sequence, duplicate| Outcome::Stored(Stored { sequence, duplicate });
    assert_eq!(world.outcomes[&30], Outcome::Failed(Failure::Timeout));
    assert_eq!((world.outcomes[&31], world.outcomes[&32]), (stored(31, false), stored(1, true)));
}

/// It took longer than it was waited for.
#[test]
fn a_late_answer_to_a_batch_ends_the_doubt() {
    let mut world = World::new(Flush::PerCommit);
    (0..30).for_each(|id| world.step(Step::Submit(vec![(id, 300)])));
    serve_all(&mut world, 16);
    assert_eq!(sent(&world), [1; 14]);
    serve_all(&mut world, 14);
    world.step(Step::Submit((100..130).map(|id| (id, 300)).collect()));
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Pass(2500));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Answer);
    serve_all(&mut world, 30);
    assert!((30..60).all(|ticket| matches!(world.outcomes[&ticket], Outcome::Stored(_))));
}

/// Nothing that was stored before the batch says anything of what the batch did to the store.
#[test]
fn what_was_sent_before_a_batch_proves_nothing_of_its_flush() {
    let mut world = World::new(Flush::PerCommit);
    (0..40).for_each(|id| world.step(Step::Submit(vec![(id, 300)])));
    assert_eq!(sent(&world), [[1; 16].as_slice(), &[24]].concat());
    (0..16).for_each(|_| world.step(Step::Serve(Fate::Arrives)));
    world.step(Step::Serve(Fate::FlushFails));
    world.step(Step::Pass(2500));
    // Now the answers to those before it come, and then those to its members.
    (0..16).for_each(|_| world.step(Step::Answer));
    serve_all(&mut world, 24);
    assert!((0..16).all(|ticket| matches!(world.outcomes[&ticket], Outcome::Stored(_))));
    assert!((16..40).all(|ticket| world.outcomes[&ticket] == Outcome::Failed(Failure::Timeout)));
}

/// A request may have more time than the broker recognises the events of its batch.
#[test]
fn what_may_be_stored_is_not_sent_again_when_it_may_no_longer_be_recognised() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(900)));
    world.step(Step::Serve(Fate::AnswerLost));
    world.server.stored.clear();
    world.server.sequence = 0;
    world.step(Step::Pass(2500));
    for _ in 0..250 {
        serve_all(&mut world, 1);
        world.step(Step::Pass(10));
    }
    // Five seconds are over: what is under way is the last.
    serve_all(&mut world, 900);
    assert!((250..=270).contains(&world.server.sequence), "{}", world.server.sequence);
    assert!(matches!(world.outcomes[&100], Outcome::Stored(_)));
    assert_eq!(world.outcomes[&899], Outcome::Skipped);
    world.end();
}

/// An acknowledgement that does not count all of a batch is none.
#[test]
fn an_acknowledgement_of_something_else_stores_nothing() {
    let acknowledged =
        |sequence, duplicate, batch_size| Acknowledged { stored: Stored { sequence, duplicate }, batch_size };
    assert_eq!(acknowledged(30, false, Some(30)).first_sequence(30), Some(1));
    for other in [
        acknowledged(30, false, Some(29)),
        acknowledged(30, false, Some(31)),
        acknowledged(30, false, None),
        acknowledged(30, true, Some(30)),
        acknowledged(29, false, Some(30)),
    ] {
        assert_eq!(other.first_sequence(30), None, "{other:?}");
    }
}

#[test]
fn without_a_connection_only_what_may_be_stored_waits_for_one() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(30)));
    world.step(Step::Submit(vec![(100, 300)]));
    world.step(Step::Connected(false));
    assert_eq!(world.outcomes.get(&30), Some(&Outcome::Failed(Failure::Unavailable)));
    assert_eq!(world.outcomes.len(), 1);
    world.step(Step::Connected(true));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Pass(5000));
    assert!(world.outcomes.values().all(|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Skipped)));
    world.end();
}

/// Its broker has more servers from some moment on, or is alone again.
#[test]
fn how_the_broker_stores_may_change_at_any_time() {
    let mut world = World::new(Flush::Shared);
    world.step(Step::Submit(events(100)));
    assert!(world.ledger.batch.is_none(), "they share flushes: nothing is gathered");
    world.ledger.set_flush(Flush::PerCommit);
    world.step(Step::Submit((200..300).map(|id| (id, 300)).collect()));
    assert!(world.ledger.batch.is_some(), "one by one would cost a flush each");
    world.ledger.set_flush(Flush::Shared);
    world.step(Step::Submit((400..500).map(|id| (id, 300)).collect()));
    for _ in 0..300 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert_eq!(world.outcomes.len(), 300);
    world.end();
}

/// Each success of a request gives the rest of it its time again: a slow disk does not fail the last of a thousand.
#[test]
fn a_request_that_gets_on_has_time() {
    let mut world = World::new(Flush::Shared);
    world.step(Step::Submit(events(10)));
    for _ in 0..10 {
        world.step(Step::Pass(4000));
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert!(world.outcomes.values().all(|outcome| matches!(outcome, Outcome::Stored(_))));
    assert_eq!(world.outcomes.len(), 10);
}
