use std::time::Duration;

use super::*;
use crate::event::{Disposition, Outcome};
use crate::exchange::{Arrival, FetchResult, Input, ParkedKeys, Pin, State, Tenancy};
use crate::lane::Section;
use crate::lane::timing::LaneTiming;

const KEY: Key = 7;

fn id(sequence: u64, delivery: u64) -> Id {
    Id { lane: 0, sequence, stored: sequence, delivery, arrival: sequence * 1000 + delivery }
}

fn arrived(id: Id) -> Arrival {
    Arrival { id, key: KEY, inbox: 1, pin: Pin::from("p"), bytes: 1, is_settled: false }
}

fn actions(owner: &mut Owner, now: Moment) -> Vec<Action> {
    let mut out = Vec::new();
    owner.actions(now, 32, &mut out);
    out
}

/// Everything that is asked of the broker is answered as by one that has these keys parked.
fn settle(owner: &mut Owner, from: Moment, state: &State, parked: &[(Key, bool)]) -> Vec<Action> {
    let mut all = Vec::new();
    for now in (0..30).map(|step| from + step * 50) {
        for action in actions(owner, now) {
            let answer = match &action {
                Action::Ask(_) => Input::State(0, Some(state.clone())),
                Action::List(..) => {
                    Input::Listed(0, Some(ParkedKeys { keys: parked.to_vec(), are_all: true, count: 0 }))
                }
                Action::TakeLease { over, .. } => Input::Leased(0, Tenancy::Ours(over + 1)),
                Action::Acknowledge { id, .. } => Input::Acknowledged(*id, true),
                Action::Detain { key, .. } => Input::Detained(0, *key, true),
                _ => {
                    all.push(action);
                    continue;
                }
            };
            all.push(action);
            owner.input(now, answer);
        }
    }
    all
}

/// An owner to which these came, the n-th by the n-th delivery.
fn owner(sequences: &[u64]) -> (Owner, State) {
    let mut owner = Owner::new(0, LaneTiming::of(Duration::from_secs(30)));
    let highest = sequences.iter().copied().max().unwrap_or(0);
    let count = sequences.len() as u64;
    let pin = (count > 0).then(|| Pin::from("p"));
    let state = State { delivered: count, pending: count, floor: 0, highest, pin };
    actions(&mut owner, 0);
    owner.input(0, Input::State(0, None));
    for (delivery, sequence) in (1..).zip(sequences) {
        owner.input(1, Input::Arrival(arrived(id(*sequence, delivery))));
    }
    (owner, state)
}

fn copies(actions: &[Action]) -> Vec<u64> {
    let events = actions.iter().filter_map(|action| match action {
        Action::Park { events } => Some(events),
        _ => None,
    });
    events.flatten().map(|(id, _)| id.sequence).collect()
}

fn fail(owner: &mut Owner, now: Moment, disposition: Disposition) -> Id {
    let started = owner.start(now).unwrap();
    owner.input(now, Input::Attempted(started, Some(disposition)));
    started
}

#[test]
fn an_event_that_waits_for_long_leaves_the_window_alone() {
    for (seconds, expected) in [(4, vec![]), (20, vec![1])] {
        let (mut owner, state) = owner(&[1, 2, 3]);
        settle(&mut owner, 100, &state, &[]);
        fail(&mut owner, 2000, Disposition::RetryIn(Duration::from_secs(seconds)));
        assert_eq!(copies(&settle(&mut owner, 2001, &state, &[])), expected, "{seconds} s");
    }
}

#[test]
fn where_many_wait_behind_it_they_go_along_in_their_order() {
    let (mut owner, state) = owner(&[1, 2, 3]);
    owner.terms.park_above = 0;
    settle(&mut owner, 100, &state, &[]);
    fail(&mut owner, 2000, Disposition::RetryIn(Duration::from_secs(1)));
    assert_eq!(copies(&actions(&mut owner, 2001)), [1, 2, 3]);
}

/// A consumer that was made again below the last copy delivers what is on the shelf or was settled from there.
#[test]
fn what_is_copied_and_comes_again_is_acknowledged() {
    let (mut owner, state) = owner(&[1, 2]);
    settle(&mut owner, 100, &state, &[(KEY, false)]);
    assert!(!owner.can_start(2000), "the key is parked");
    owner.input(2000, Input::LastParked(0, KEY, Some(1)));
    let told = actions(&mut owner, 2001);
    assert!(told.iter().any(|action| matches!(action, Action::Acknowledge { id, .. } if id.sequence == 1)), "{told:?}");
    assert!(!told.iter().any(|action| matches!(action, Action::Acknowledge { id, .. } if id.sequence == 2)));
}

#[test]
fn a_key_that_waits_for_a_person_is_marked_and_released() {
    let (mut owner, state) = owner(&[1]);
    settle(&mut owner, 100, &state, &[]);
    let held = fail(&mut owner, 2000, Disposition::Detain);
    assert_eq!(copies(&settle(&mut owner, 2001, &state, &[])), [1]);
    owner.input(4000, Input::Parked(vec![held], ParkResult::Stored));
    let state = State { pending: 0, floor: 1, ..state };
    let told = settle(&mut owner, 4001, &state, &[(KEY, true)]);
    assert!(told.contains(&Action::Detain { lane: 0, key: KEY }), "{told:?}");
    assert!(!told.iter().any(|action| matches!(action, Action::Fetch { .. })), "it waits");
    let told = settle(&mut owner, 20_000, &state, &[(KEY, true)]);
    assert!(
        told.contains(&Action::List(0, Section::ALL))
            && !told.iter().any(|action| matches!(action, Action::Fetch { .. }))
    );
    let told = settle(&mut owner, 40_000, &state, &[(KEY, false)]);
    assert!(told.iter().any(|action| matches!(action, Action::Fetch { key: KEY, .. })), "{told:?}");
}

/// A mark of which an owner hears after it has found the key.
#[test]
fn a_mark_that_is_heard_of_late_holds_the_key() {
    let (mut owner, mut state) = owner(&[]);
    state.pin = None;
    settle(&mut owner, 100, &state, &[(KEY, false)]);
    let told = ParkedKeys { keys: vec![(KEY, true)], are_all: true, count: 1 };
    owner.parked.found((15_000, 15_000), Section::ALL, &told, 8, |_| false);
    let fetch = Action::Fetch { lane: 0, key: KEY, again: true };
    assert!(!settle(&mut owner, 16_000, &state, &[(KEY, true)]).contains(&fetch));
    assert!(settle(&mut owner, 30_000, &state, &[(KEY, false)]).contains(&fetch), "it is released");
}

#[test]
fn a_parked_event_is_read_when_it_is_due() {
    let (mut owner, mut state) = owner(&[]);
    state.pin = None;
    let told = settle(&mut owner, 100, &state, &[(KEY, false)]);
    let fetch = Action::Fetch { lane: 0, key: KEY, again: true };
    assert!(!told.contains(&fetch), "a former owner may have the lease");
    let told = settle(&mut owner, 16_000, &state, &[(KEY, false)]);
    assert!(told.contains(&fetch), "{told:?}");
    let parked = Id { delivery: 5, ..id(9, 5) };
    owner.input(18_000, Input::Fetched(0, KEY, FetchResult::Event(arrived(parked))));
    fail(&mut owner, 18_001, Disposition::RetryIn(Duration::from_secs(60)));
    assert!(actions(&mut owner, 18_002).contains(&Action::Drop(parked)), "it takes no memory");
    let fetch = Action::Fetch { lane: 0, key: KEY, again: false };
    assert!(!settle(&mut owner, 70_000, &state, &[(KEY, false)]).contains(&fetch));
    assert!(settle(&mut owner, 78_001, &state, &[(KEY, false)]).contains(&fetch));
    owner.input(80_000, Input::Fetched(0, KEY, FetchResult::Event(arrived(parked))));
    fail(&mut owner, 80_001, Disposition::Over(Outcome::Acknowledged));
    assert!(actions(&mut owner, 80_002).contains(&Action::Unpark { id: parked }));
}

/// A lane that begins before what was settled in other lanes: such an event is neither started nor parked, also where
/// its key is parked, which is about later events.
#[test]
fn what_was_settled_in_other_lanes_is_acknowledged_and_not_parked() {
    let (mut owner, state) = owner(&[]);
    settle(&mut owner, 0, &state, &[(KEY, false)]);
    let event = id(7, 1);
    owner.input(1_600, Input::Arrival(Arrival { is_settled: true, ..arrived(event) }));
    let state = State { delivered: 1, pending: 1, floor: 0, highest: 7, pin: Some(Pin::from("p")) };
    let all = settle(&mut owner, 1_600, &state, &[(KEY, false)]);
    assert!(all.contains(&Action::Acknowledge { id: event, confirm: true }), "{all:?}");
    assert!(copies(&all).is_empty(), "{all:?}");
    assert_eq!(owner.start(3_200), None);
}
