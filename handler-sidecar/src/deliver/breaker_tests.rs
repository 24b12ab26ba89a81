use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The first attempt of an event, which begins as it fails.
fn failure(event: u64, now: u64) -> Failure {
    Failure { event, is_first: true, began: at(now), asked: None, is_trial: false }
}

fn fail(breaker: &mut Breaker, event: u64, now: u64) -> Blame {
    breaker.failed(at(now), failure(event, now))
}

/// One that opened at second 20, in which different events failed.
fn open() -> Breaker {
    let mut breaker = Breaker::default();
    assert_eq!(fail(&mut breaker, 1, 20_000), Blame::Event);
    assert_eq!(fail(&mut breaker, 2, 20_000), Blame::Handler(Duration::ZERO));
    assert!(breaker.is_open());
    breaker
}

#[test]
fn a_quiet_handler_is_judged_by_two_events() {
    let mut breaker = Breaker::default();
    breaker.succeeded(at(0), false);
    assert_eq!(fail(&mut breaker, 1, 60_000), Blame::Event);
    assert_eq!(fail(&mut breaker, 1, 61_000), Blame::Event, "the same again");
    assert_eq!(fail(&mut breaker, 2, 62_000), Blame::Handler(at(2000)));
    assert_eq!(breaker.open_since(), Some(at(60_000)));
}

#[test]
fn a_busy_handler_is_judged_by_five_new_events_in_a_row() {
    let mut breaker = Breaker::default();
    for now in 0..1000 {
        breaker.succeeded(at(now), false);
    }
    let known = |event| Failure { is_first: false, ..failure(event, 1000) };
    for event in 100..140 {
        assert_eq!(breaker.failed(at(1000), known(event)), Blame::Event, "that these fail was known");
    }
    for event in 1..5 {
        assert_eq!(fail(&mut breaker, event, 1000 + event), Blame::Event);
    }
    assert_eq!(fail(&mut breaker, 4, 1010), Blame::Event, "it is one of the four");
    assert!(matches!(fail(&mut breaker, 5, 1011), Blame::Handler(_)));
}

#[test]
fn a_success_in_between_begins_a_new_series() {
    let mut breaker = Breaker::default();
    breaker.succeeded(at(0), false);
    for round in 0..10 {
        for event in 0..4 {
            assert_eq!(fail(&mut breaker, round * 4 + event, round * 100), Blame::Event);
        }
        breaker.succeeded(at(round * 100 + 50), false);
    }
    assert!(!breaker.is_open());
}

#[test]
fn one_event_again_and_again_is_no_outage() {
    let mut breaker = Breaker::default();
    for asked in [None, Some(at(0)), Some(at(1000))] {
        for attempt in 0..100 {
            let failure = Failure { asked, is_first: attempt == 0, ..failure(1, attempt) };
            assert_eq!(breaker.failed(at(attempt * 1000), failure), Blame::Event);
        }
        assert_eq!(breaker.is_open(), asked == Some(at(1000)), "what it asks for is respected: {asked:?}");
    }
}

/// Attempts that began before the last success say nothing that is not known by it: with jobs of minutes, two that
/// time out are no outage.
#[test]
fn long_attempts_are_judged_by_when_they_began() {
    let mut breaker = Breaker::default();
    breaker.succeeded(at(500_000), false);
    for event in 1..4 {
        let failure = Failure { began: at(event), is_first: false, ..failure(event, 0) };
        assert_eq!(breaker.failed(at(600_000), failure), Blame::Event);
    }
    assert!(!breaker.is_open());
}

#[test]
fn a_success_of_a_trial_closes_it_and_a_poison_event_is_found_afterwards() {
    let mut breaker = open();
    assert_eq!(fail(&mut breaker, 3, 20_005), Blame::Handler(at(5)), "one that was under way");
    assert!(!breaker.succeeded(at(20_006), false), "so was this");
    assert_eq!(breaker.admit(at(20_019)), Admission::Wait(at(20_020)));
    assert_eq!(breaker.admit(at(20_020)), Admission::Trial);
    let poison = Failure { is_trial: true, ..failure(7, 20_021) };
    assert_eq!(breaker.failed(at(20_021), poison), Blame::Handler(at(21)));
    assert_eq!(breaker.admit(at(20_041)), Admission::Trial);
    assert!(breaker.succeeded(at(20_042), true));
    assert_eq!(breaker.admit(at(20_042)), Admission::Free);
    for attempt in 1..50 {
        assert_eq!(fail(&mut breaker, 7, 20_042 + attempt), Blame::Event);
        assert!(!breaker.succeeded(at(20_042 + attempt), false));
    }
}

#[test]
fn what_asks_for_a_pause_opens_it_at_once() {
    let mut breaker = Breaker::default();
    breaker.succeeded(at(0), false);
    let asks = |event| Failure { asked: Some(at(120_000)), ..failure(event, 10) };
    assert_eq!(breaker.failed(at(10), asks(1)), Blame::Event, "one alone counts");
    assert!(breaker.is_open());
    assert_eq!(breaker.failed(at(11), asks(2)), Blame::Handler(at(1)));
    assert_eq!(breaker.admit(at(30)), Admission::Trial, "another event may be welcome all the same");
}

#[test]
fn a_pause_is_a_tenth_of_the_outage() {
    for (lasted, asked, expected) in [
        (0, None, 20),
        (0, Some(120_000), 20),
        (200, None, 20),
        (1000, None, 100),
        (40_000, None, 4000),
        (100_000, None, 5000),
        (100_000, Some(1000), 5000),
        (100_000, Some(8000), 8000),
        (200_000, Some(120_000), 20_000),
        (9_000_000, Some(u64::MAX), 30_000),
    ] {
        assert_eq!(pause(at(lasted), asked.map(at)), at(expected), "{lasted} {asked:?}");
    }
}

#[test]
fn a_trial_without_an_answer_holds_up_the_next_one_for_a_while() {
    let mut breaker = open();
    assert_eq!(breaker.admit(at(20_020)), Admission::Trial);
    assert_eq!(breaker.admit(at(20_020)), Admission::Wait(at(30_020)));
    assert_eq!(breaker.admit(at(30_020)), Admission::Trial);
    breaker.has_news(at(30_021));
    assert_eq!(breaker.admit(at(30_021)), Admission::Trial, "the program is another one");
}

/// What becomes of events of which some always fail, at a handler that is down for a while.
struct Simulation {
    /// Events a second.
    rate: u64,
    /// Of a hundred events so many always fail.
    poison: u64,
    outage: Range<u64>,
    millis: u64,
    /// No more events than so many.
    events: u64,
}

#[derive(Debug, Default)]
struct Figures {
    openings: u32,
    open_millis: u64,
    handled: u64,
    /// Good events that became dead letters.
    lost: u64,
    found: u64,
    /// When the last of these was found.
    found_by: u64,
    /// The longest that a good event of after the outage was waited for.
    latest: u64,
}

impl Simulation {
    fn run(&self) -> Figures {
        let (mut breaker, mut figures) = (Breaker::default(), Figures::default());
        let mut random = fastrand::Rng::with_seed(7);
        let mut queue = BinaryHeap::new();
        let mut known: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        let (mut published, mut was_open) = (0, false);
        for now in 0..self.millis {
            while published < self.events && published * 1000 < now * self.rate {
                queue.push(Reverse((now, published, now)));
                published += 1;
            }
            for _ in 0..16 {
                let Some(Reverse((due, event, came))) = queue.peek().copied() else { break };
                if due > now {
                    break;
                }
                let is_trial = match breaker.admit(at(now)) {
                    Admission::Free => false,
                    Admission::Trial => true,
                    Admission::Wait(_) => break,
                };
                queue.pop();
                let is_poison = (event * 37) % 100 < self.poison;
                let (counted, requests) = known.entry(event).or_default();
                if !is_poison && !self.outage.contains(&now) {
                    breaker.succeeded(at(now), is_trial);
                    figures.handled += 1;
                    if came > self.outage.end {
                        figures.latest = figures.latest.max(now - came);
                    }
                    continue;
                }
                let failure = Failure { is_first: *requests == 0, is_trial, ..failure(event, now) };
                *requests += 1;
                let wait = match breaker.failed(at(now), failure) {
                    Blame::Event if *counted == 9 => {
                        if is_poison {
                            (figures.found, figures.found_by) = (figures.found + 1, now);
                        } else {
                            figures.lost += 1;
                        }
                        continue;
                    }
                    Blame::Event => {
                        *counted += 1;
                        (500u64 << *counted).min(60_000)
                    }
                    Blame::Handler(lasted) => (lasted.as_millis() as u64 / 4).clamp(1000, 60_000),
                };
                queue.push(Reverse((now + random.u64(wait * 4 / 5..=wait * 6 / 5), event, came)));
            }
            figures.openings += u32::from(breaker.is_open() && !was_open);
            figures.open_millis += u64::from(breaker.is_open());
            was_open = breaker.is_open();
        }
        figures
    }
}

#[test]
fn an_outage_costs_no_event_and_hides_no_poison() {
    // At worst several trials in a row meet poison, with pauses of a tenth of the outage.
    for (rate, poison, late) in
        [(1, 0, 5000), (8, 0, 5000), (8, 2, 10_000), (100, 2, 10_000), (400, 2, 10_000), (100, 20, 20_000)]
    {
        let outage = 20_000..60_000;
        let figures = Simulation { rate, poison, outage, millis: 600_000, events: u64::MAX }.run();
        assert_eq!(figures.lost, 0, "{rate} {poison} {figures:?}");
        let events = rate * 600;
        assert!(figures.handled >= events * (100 - poison) / 100 * 99 / 100, "{rate} {poison} {figures:?}");
        // The events of the last four minutes have attempts left.
        assert!(figures.found >= events * poison / 100 * 5 / 10, "{rate} {poison} {figures:?}");
        assert!(figures.open_millis < 40_000 + late, "{rate} {poison} {figures:?}");
        assert!(figures.latest < late, "{rate} {poison} {figures:?}");
    }
}

const MINUTE: u64 = 60_000;

/// All that a quiet handler has are a few events that always fail. They pass for an outage, and are found all the same.
#[test]
fn a_few_poison_events_alone_are_found() {
    for events in 1..=4 {
        let simulation = Simulation { rate: 1, poison: 100, outage: 0..0, millis: 60 * MINUTE, events };
        let figures = simulation.run();
        assert_eq!((figures.found, figures.handled), (events, 0), "{figures:?}");
        // Ten minutes, and then ten attempts with up to a minute between two of them.
        assert!(figures.found_by < 20 * MINUTE, "{events} {figures:?}");
    }
}

#[test]
fn an_outage_that_is_not_long_or_of_which_more_than_a_few_tell_costs_no_event() {
    for (events, minutes) in [(2, 1), (3, 1), (2, 9), (4, 9), (5, 600), (40, 600)] {
        let outage = 0..minutes * MINUTE;
        let simulation = Simulation { rate: 1, poison: 0, outage, millis: (minutes + 30) * MINUTE, events };
        let figures = simulation.run();
        assert_eq!((figures.lost, figures.handled), (0, events), "{minutes} {figures:?}");
    }
}

#[test]
fn one_failing_event_in_fifty_never_opens_it() {
    for rate in [1, 8, 100, 400] {
        let figures = Simulation { rate, poison: 2, outage: 0..0, millis: 600_000, events: u64::MAX }.run();
        assert_eq!(figures.openings, 0, "{rate} {figures:?}");
    }
}

#[test]
fn with_more_poison_than_good_events_all_of_it_is_found_and_the_good_ones_are_not_held_up() {
    for rate in [10, 100] {
        let figures = Simulation { rate, poison: 60, outage: 0..0, millis: 600_000, events: u64::MAX }.run();
        assert!(figures.open_millis < 6000, "{rate} {figures:?}");
        assert!(figures.found > rate * 600 * 60 / 100 * 5 / 10, "{rate} {figures:?}");
        assert!(figures.latest < 1000, "{rate} {figures:?}");
    }
}

proptest! {
    /// Any sequence: what it keeps is bounded, nothing is the handler's fault while it is closed, and an open breaker
    /// always lets a trial begin soon.
    #[test]
    fn it_is_bounded(
        steps in proptest::collection::vec((0u64..2000, 0u64..40, any::<bool>(), 0u8..4, any::<u64>()), 0..300),
    ) {
        let (mut breaker, mut now) = (Breaker::default(), 0);
        for (later, event, is_first, kind, asked) in steps {
            now += later;
            let admission = breaker.admit(at(now));
            match admission {
                Admission::Free => prop_assert!(!breaker.is_open()),
                Admission::Trial => prop_assert!(breaker.is_open()),
                Admission::Wait(moment) => prop_assert!(moment <= at(now) + MAX_ASKED_PAUSE),
            }
            let is_trial = admission == Admission::Trial;
            if kind == 0 {
                prop_assert_eq!(breaker.succeeded(at(now), is_trial), is_trial);
                continue;
            }
            let asked = (kind == 1).then(|| at(asked));
            let blame = breaker.failed(at(now), Failure { is_first, asked, is_trial, ..failure(event, now) });
            prop_assert!(blame == Blame::Event || breaker.is_open());
            prop_assert!(breaker.run.as_ref().is_none_or(|run| run.first_attempts.len() <= MAX_NEEDED));
        }
    }
}
