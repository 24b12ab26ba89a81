//! What is on record of attempts, and what counts.

use super::*;

fn failed(number: usize) -> Change {
    Change::Failed(
        Failed::new(format!("2026-01-01T00:00:{number:02}Z"), Some(500), "no\r\nway"),
        Next::NotBefore(0, Duration::ZERO),
    )
}

fn after(changes: &[Change]) -> Record {
    (1u32..).zip(changes).fold(Record::default(), |record, (delivery, change)| record.with(change, "uid", delivery))
}

#[test]
fn attempts_and_untried_deliveries_are_told_apart() {
    let record = after(&[failed(0), Change::Untried, Change::Untried, failed(3)]);
    assert_eq!((record.attempts(), record.untraced(5)), (2, 0));
    assert_eq!(record.untraced(9), 4, "nobody told of four deliveries");
    assert!(record.is_newest_before(5) && !record.is_newest_before(6));
    assert_eq!(record.failed()[1].error, "no  way");
}

#[test]
fn an_attempt_in_an_outage_is_on_record_and_does_not_count() {
    let outage = |number| match failed(number) {
        Change::Failed(failed, next) => Change::Failed(failed.in_outage(), next),
        untried => untried,
    };
    let record = after(&[failed(0), outage(1), outage(2), failed(3), Change::Untried]);
    assert_eq!((record.attempts(), record.outage_attempts(), record.requests()), (2, 2, 4));
    assert_eq!(record.untraced(6), 0, "all five deliveries left a trace");
    let marked: Vec<_> = record.failed().iter().map(|failed| failed.outage).collect();
    assert_eq!(marked, [false, true, true, false]);
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    assert!(!serde_json::to_string(&after(&[failed(0)])).unwrap().contains("utage"), "what is not is not written");
}

#[test]
fn one_that_begun_and_has_no_end_is_seen() {
    let begun = after(&[failed(0), Change::Begun]);
    assert_eq!((begun.deliveries(), begun.attempts(), begun.untraced(3)), (2, 1, 1));
    let ended = begun.with(&failed(1), "uid", 2);
    assert_eq!((ended.deliveries(), ended.attempts(), ended.untraced(3)), (2, 2, 0));
}

#[test]
fn one_that_was_told_late_does_not_make_the_record_older() {
    let record = Record::default().with(&failed(1), "uid", 7).with(&failed(2), "uid", 3);
    assert!(record.is_newest_before(8));
    assert_eq!(record.attempts(), 2);
}

#[test]
fn the_first_and_the_last_are_kept() {
    let all: Vec<_> = (0..120).map(failed).collect();
    let record = after(&all);
    assert_eq!((record.attempts(), record.failed().len()), (120, KEPT));
    assert!(record.has(&all[0]) && !record.has(&all[1]) && record.has(&all[71]) && record.has(&all[119]));
}

#[test]
fn an_event_that_is_handed_over_waits_for_its_time() {
    let failed = |follows| after(&[Change::Failed(Failed::new("t".into(), Some(429), "e"), follows), Change::Untried]);
    let record = failed(Next::NotBefore(100_000, Duration::from_secs(100)));
    for (now, expected) in [(0, Some(100)), (70_000, Some(30)), (99_001, None), (100_000, None), (i64::MAX, None)] {
        let wait = |left| Wait { left: Duration::from_secs(left), is_clock_behind: false };
        assert_eq!(record.wait(now), expected.map(wait), "{now}");
    }
    assert_eq!(failed(Next::GivenUp(Reason::Refused)).wait(0), None);
    assert_eq!(Record::default().wait(0), None);
    let old: Record = serde_json::from_str(
        r#"{"handler":"u","deliveries":1,"attempts":1,"notBefore":9223372036854775807,"failed":[]}"#,
    )
    .unwrap();
    assert_eq!(old.wait(i64::MIN).map(|wait| wait.left), Some(LONGEST_WAIT), "of an earlier version");
}

/// The clock of the pod that reads is off by up to an hour against that of the one that wrote, or by anything.
#[test]
fn a_wait_is_no_longer_than_twice_what_was_asked_for() {
    const HOUR: i64 = 3_600_000;
    for (asked, offset, comes_after, expected) in [
        (60_000, 0, 0, 60_000),
        (60_000, 0, 60_000, 60_000),
        (60_000, -30_000, 60_000, 90_000),
        (60_000, -HOUR, 60_000, 120_000),
        (2 * HOUR, -HOUR, 2 * HOUR, 3 * HOUR),
        (60_000, i64::MIN / 2, 60_000, 120_000),
        // Not before the broker gives it out again.
        (60_000, HOUR, 60_000, 60_000),
        // Handed over to another pod at once.
        (60_000, HOUR, 0, 0),
    ] {
        let wait = Duration::from_millis(u64::try_from(asked).unwrap());
        let mut record = after(&[Change::Failed(Failed::new("t".into(), None, "e"), Next::NotBefore(asked, wait))]);
        // The broker keeps it for as long as it is told to.
        let (mut passed, mut rounds) = (comes_after, 0);
        while let Some(Wait { left, is_clock_behind }) = record.wait(passed + offset) {
            record = record.with(if is_clock_behind { &Change::PutOff } else { &Change::Untried }, "uid", 2);
            passed += i64::try_from(left.as_millis()).unwrap();
            rounds += 1;
            assert!(rounds < 5, "{asked} {offset}");
        }
        assert_eq!(passed, expected, "{asked} {offset}");
    }
}

#[test]
fn a_record_on_a_copy_is_one_line_within_its_bound() {
    let long: Vec<_> = (0..60)
        .map(|number| {
            let failed = Failed::new(number.to_string(), Some(500), &"\"\u{7f}\nö".repeat(90));
            Change::Failed(failed, Next::NotBefore(0, Duration::ZERO))
        })
        .collect();
    let record = after(&long);
    let line = record.in_one_line(8 * 1024).unwrap();
    assert!(line.len() <= 8 * 1024 && !line.chars().any(char::is_control), "{}", line.len());
    let read: Record = serde_json::from_str(&line).unwrap();
    let times: Vec<_> = read.failed().iter().map(|failed| failed.time.parse::<usize>().unwrap()).collect();
    assert!(times.len() > 5 && times[0] == 0 && times[1..].is_sorted() && times.last() == Some(&59), "{times:?}");
    assert_eq!((read.attempts(), read.deliveries()), (60, 60));
    assert_eq!(after(&long[..1]).in_one_line(0).unwrap().matches("\"failed\":[]").count(), 1, "it ends");
}

#[test]
fn an_event_that_was_released_begins_as_if_it_had_never_failed() {
    let last = Failed::new("t".into(), Some(503), "the last one");
    let record = after(&[failed(0), Change::Untried, Change::Begun, Change::Restarted(Some(last.clone()))]);
    assert_eq!((record.attempts(), record.requests(), record.untraced(5)), (0, 0, 0));
    assert_eq!((record.wait(i64::MIN), record.asked_wait(), record.given_up()), (None, None, None));
    assert_eq!(record.failed().last(), Some(&last), "its history is kept");
    assert!(record.has(&Change::Restarted(Some(last))) && record.is_newest_before(5));
    let next = record.with(&failed(5), "uid", 5);
    assert_eq!((next.attempts(), next.untraced(6), next.failed().len()), (1, 0, 3));
    assert_eq!(after(&[failed(0), Change::Restarted(None)]).failed().len(), 1);
}

#[test]
fn in_a_record_of_which_nothing_counts_the_wait_does() {
    let wait = Duration::from_secs(60);
    let record = after(&[Change::Failed(Failed::new("t".into(), None, "e"), Next::NotBefore(60_000, wait))]);
    let uncounted = record.clone().uncounted();
    assert_eq!((uncounted.attempts(), uncounted.untraced(2), uncounted.wait(0)), (0, 0, record.wait(0)));
    assert_eq!((uncounted.deliveries(), uncounted.failed()), (1, record.failed()));
}

#[test]
fn what_is_written_is_read() {
    let refused = Change::Failed(Failed::new("t".into(), None, "e"), Next::GivenUp(Reason::Refused));
    let record = after(&[failed(1), Change::Untried, refused]);
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    assert!(json.contains(r#""givenUp":"refused-by-handler""#), "{json}");
}
