use proptest::prelude::*;

use super::*;

mod load;

fn policy() -> Policy {
    Policy { min: 0, max: 10, target: Duration::from_secs(5), idle_after: Duration::from_secs(30), slots: 10 }
}

fn sample(second: u64, pending: u64, running: u64) -> Sample {
    Sample {
        at: Duration::from_secs(second),
        pending,
        unacknowledged: running,
        retries: 0,
        running: running as f64,
        delivered: 0,
        succeeded: 0,
        failed: 0,
        is_down: false,
        ready: 0,
    }
}

fn after(samples: &[Sample]) -> History {
    let mut history = History::default();
    for sample in samples {
        history.record(&policy(), *sample);
    }
    history
}

/// Feeds what `sample` says for a second and the pods there are, and returns the numbers of pods that came of it.
fn follow(policy: &Policy, history: &mut History, mut pods: u32, samples: impl Iterator<Item = Sample>) -> Vec<u32> {
    let mut numbers = Vec::new();
    for sample in samples {
        history.record(policy, Sample { ready: pods, ..sample });
        pods = history.decide(policy, pods).replicas;
        numbers.push(pods);
    }
    numbers
}

#[test]
fn the_first_event_wakes_a_handler_at_once() {
    assert_eq!(after(&[sample(0, 1, 0)]).decide(&policy(), 0), Plan { replicas: 1, reason: Reason::Backlog });
}

#[test]
fn a_backlog_asks_for_as_many_as_work_it_off_in_time() {
    // 10 events/s assumed, 5 s: 50 for each pod.
    assert_eq!(after(&[sample(0, 301, 0)]).decide(&policy(), 1).replicas, 7);
}

#[test]
fn the_measured_rate_takes_the_place_of_the_assumed_one() {
    let at = |second: u64, delivered| Sample { delivered, ready: 1, ..sample(second, 1000, 10) };
    // 100 events/s measured: 500 of the backlog for each pod, and one pod for what arrives.
    assert_eq!(after(&[at(0, 10), at(1, 110), at(2, 210)]).decide(&policy(), 1).replicas, 3);
}

#[test]
fn full_pods_ask_for_more() {
    assert_eq!(after(&[sample(0, 0, 20)]).decide(&policy(), 2), Plan { replicas: 3, reason: Reason::Concurrency });
}

#[test]
fn never_beyond_the_limits() {
    assert_eq!(
        after(&[sample(0, 1_000_000, 0)]).decide(&policy(), 1),
        Plan { replicas: 10, reason: Reason::AtMaximum }
    );
    let one = Policy { min: 1, ..policy() };
    let idle: Vec<_> = (0..60).map(|second| sample(second, 0, 0)).collect();
    assert_eq!(after(&idle).decide(&one, 1), Plan { replicas: 1, reason: Reason::Idle });
}

#[test]
fn down_only_after_it_was_enough_for_the_whole_window() {
    let mut history = after(&[sample(0, 301, 0)]);
    for second in 1..=30 {
        history.record(&policy(), sample(second, 0, 0));
        assert_eq!(history.decide(&policy(), 7), Plan { replicas: 7, reason: Reason::Holding }, "second {second}");
    }
    history.record(&policy(), sample(31, 0, 0));
    assert_eq!(history.decide(&policy(), 7), Plan { replicas: 0, reason: Reason::Idle });
}

#[test]
fn an_operator_that_has_just_started_takes_nothing_away() {
    assert_eq!(History::default().decide(&policy(), 4), Plan { replicas: 4, reason: Reason::Holding });
    assert_eq!(after(&[sample(0, 0, 0)]).decide(&policy(), 4).replicas, 4);
    let at_once = Policy { idle_after: Duration::ZERO, ..policy() };
    let mut history = History::default();
    history.record(&at_once, sample(0, 0, 0));
    assert_eq!(history.decide(&at_once, 4).replicas, 4, "one sample is no watch");
}

/// 50 events a second, and every attempt fails: all are in backoff.
#[test]
fn a_handler_whose_events_all_fail_has_one_pod() {
    let policy = Policy { max: 6, slots: 16, ..policy() };
    let failing = |second: u64| Sample {
        // What the consumer lets out of hand at most, and the rest waits behind it.
        unacknowledged: (second * 50).min(192),
        pending: (second * 50).saturating_sub(192),
        running: 0.5,
        delivered: second * 80,
        failed: second * 80,
        ..sample(second, 0, 0)
    };
    let mut history = History::default();
    let numbers = follow(&policy, &mut history, 1, (1..120).map(failing));
    assert_eq!(numbers, vec![1; 119], "further pods would fail, too");
    assert_eq!(history.decide(&policy, 1).reason, Reason::Failing);
    let numbers = follow(&policy, &mut history, 6, (120..240).map(failing));
    assert_eq!(numbers.last(), Some(&1), "those that are there go");
    assert_eq!(follow(&policy, &mut history, 0, (240..242).map(failing)), [1, 1], "one tries on");
}

/// Without it nothing would attempt them when they are due.
#[test]
fn a_handler_keeps_one_pod_while_events_wait_for_a_retry() {
    let shelf = |second: u64| Sample { retries: 7, ..sample(second, 0, 0) };
    let mut history = History::default();
    assert_eq!(follow(&policy(), &mut history, 3, (1..120).map(shelf)).last(), Some(&1));
    assert_eq!(history.decide(&policy(), 1), Plan { replicas: 1, reason: Reason::Retries });
    assert_eq!(history.decide(&policy(), 0), Plan { replicas: 1, reason: Reason::Retries }, "and wakes up for them");
    let none = follow(&policy(), &mut history, 1, (120..240).map(|second| sample(second, 0, 0)));
    assert_eq!(none.last(), Some(&0));
    let failing = |second: u64| Sample { failed: second * 9, ..shelf(second) };
    assert_eq!(follow(&policy(), &mut history, 1, (240..360).map(failing)).last(), Some(&1));
}

#[test]
fn a_handler_that_is_down_has_no_more_pods() {
    let down = |second: u64| Sample { is_down: true, ..sample(second, second * 1000, 16) };
    assert_eq!(follow(&policy(), &mut History::default(), 2, (1..30).map(down)), vec![2; 29]);
}

#[test]
fn a_handler_that_succeeds_again_scales_at_once() {
    let at = |second: u64, succeeded, failed| Sample { succeeded, failed, ..sample(second, 1000, 10) };
    let mut history = after(&[at(0, 0, 0), at(1, 0, 50), at(2, 0, 100)]);
    assert_eq!(history.decide(&policy(), 1), Plan { replicas: 1, reason: Reason::Failing });
    for second in 3..12 {
        history.record(&policy(), at(second, second * 100, 100));
    }
    assert!(history.decide(&policy(), 1).replicas > 1);
}

#[test]
fn few_failures_do_not_keep_a_handler_from_scaling() {
    let at = |second: u64| Sample { succeeded: second * 90, failed: second * 10, ..sample(second, 301, 10) };
    assert_eq!(follow(&policy(), &mut History::default(), 1, (0..3).map(at))[0], 7);
}

#[test]
fn what_waits_for_a_retry_is_not_in_flight() {
    let waiting = |second| Sample { unacknowledged: 200, running: 3.0, ..sample(second, 0, 0) };
    assert_eq!(follow(&policy(), &mut History::default(), 1, (0..9).map(waiting)), vec![1; 9]);
    let waiting = |second| Sample { unacknowledged: 200, ..sample(second, 0, 0) };
    let numbers = follow(&policy(), &mut History::default(), 1, (0..99).map(waiting));
    assert_eq!(numbers, vec![1; 99], "nor is it nothing: somebody has to take it");
}

#[test]
fn after_a_gap_one_idle_sample_takes_nothing_away() {
    let mut history = History::default();
    let busy = follow(&policy(), &mut history, 6, (0..60).map(|second| sample(second, 0, 40)));
    assert_eq!(busy.last(), Some(&6));
    let idle = follow(&policy(), &mut history, 6, [sample(200, 0, 0)].into_iter());
    assert_eq!(idle, [6], "nothing was heard for longer than idleAfter");
    let idle = follow(&policy(), &mut history, 6, (201..=230).map(|second| sample(second, 0, 0)));
    assert_eq!((idle[28], idle[29]), (6, 0), "after idleAfter without a gap");
}

#[test]
fn a_few_missed_polls_are_no_gap() {
    let mut history = History::default();
    let idle = follow(&policy(), &mut history, 6, (0..12).map(|third| sample(third * 3, 0, 0)));
    assert_eq!(idle.last(), Some(&0));
}

proptest! {
    #[test]
    fn within_limits_and_never_zero_with_work(
        seen in proptest::collection::vec(
            (1u64..9_000, 0u64..100_000, 0u64..5_000, 0u64..6_000, 0u64..50, 0u64..50, any::<bool>(), 0u32..20), 1..100,
        ),
        (min, max, idle_after, retries) in (0u32..5, 1u32..12, 0u64..40, 0u64..2),
        current in 0u32..20,
    ) {
        let policy = Policy { min, max, idle_after: Duration::from_secs(idle_after), ..policy() };
        let (mut history, mut last) = (History::default(), sample(0, 0, 0));
        for (millis, pending, unacknowledged, running_milli, succeeded, failed, is_down, ready) in seen {
            last = Sample {
                at: last.at + Duration::from_millis(millis),
                pending,
                unacknowledged,
                retries,
                running: running_milli as f64 / 1000.0,
                delivered: last.delivered + succeeded + failed,
                succeeded: last.succeeded + succeeded,
                failed: last.failed + failed,
                is_down,
                ready,
            };
            history.record(&policy, last);
            let plan = history.decide(&policy, current);
            let most = max.max(min);
            prop_assert!(plan.replicas >= min && plan.replicas <= most);
            prop_assert!(plan.replicas > 0 || !last.has_work());
            if history.outcomes != Outcomes::Succeed {
                prop_assert!(plan.replicas <= current.max(1).max(min), "up on failures");
            }
        }
    }
}
