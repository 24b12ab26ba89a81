use proptest::prelude::*;

use super::*;
use crate::membership::Site;

fn counts(first: u64, last: u64, messages: u64) -> Counts {
    let deleted = (last + 1).saturating_sub(first).saturating_sub(messages);
    Counts { first, last, messages, deleted, bytes: messages * 100 }
}

fn id(name: &str) -> StreamId {
    StreamId { account: "A".into(), name: name.into() }
}

/// A stream of this name, led by server 0.
fn seen(name: &str, all: &[Counts]) -> Look {
    let counts: BTreeMap<_, _> = all.iter().copied().enumerate().collect();
    let copies = Copies { wanted: all.len(), leader: Some(0), is_moving: false, expires: false, counts };
    let servers = (0..all.len()).map(|ordinal| (ordinal, format!("S{ordinal}"))).collect();
    Look { totals: Totals { servers, groups: 2 }, streams: BTreeMap::from([(id(name), copies)]) }
}

/// Damaged servers with what they lack, what all lack, and whether all was seen.
fn found(name: &str, earlier: &[Counts], later: &[Counts]) -> (Vec<(Ordinal, u64)>, u64, bool) {
    let findings = judge(&seen(name, earlier), &seen(name, later), &Acknowledged::new());
    let damaged = findings.damaged.iter().map(|it| (it.server, it.missing)).collect();
    (damaged, findings.lost.iter().map(|it| it.missing).sum(), findings.unfinished.is_empty())
}

#[test]
fn where_messages_go_by_their_age_only_holes_count() {
    let expiring = |all: &[Counts]| {
        let mut look = seen("events", all);
        look.streams.values_mut().for_each(|copies| copies.expires = true);
        look
    };
    // One server's clock is ahead: it has removed more, at both looks.
    let (early, late) = (counts(61, 100, 40), counts(1, 100, 100));
    let apart = expiring(&[late, early, late]);
    assert!(apart.is_plain(&Acknowledged::new()) && judge(&apart, &apart, &Acknowledged::new()).is_passed());
    let hole = counts(61, 100, 30);
    let damaged = expiring(&[late, hole, late]);
    assert!(!damaged.is_plain(&Acknowledged::new()));
    let findings = judge(&damaged, &damaged, &Acknowledged::new());
    assert_eq!(findings.damaged.iter().map(|it| (it.server, it.whole, it.missing)).collect::<Vec<_>>(), [(1, 0, 10)]);
    // Without an age it would be one.
    let apart = seen("events", &[late, early, late]);
    assert_eq!(judge(&apart, &apart, &Acknowledged::new()).damaged.len(), 1);
}

#[test]
fn a_copy_that_lacks_something_is_told_from_one_that_is_behind() {
    let (all, hole) = (counts(1, 100, 100), counts(1, 100, 60));
    let ahead = counts(1, 140, 140);
    let table = [
        ("all is there", vec![all; 3], vec![all; 3], (vec![], 0, true)),
        ("a hole", vec![all, hole, all], vec![all, hole, all], (vec![(1, 40)], 0, true)),
        ("the leader has it", vec![hole, all, all], vec![hole, all, all], (vec![(0, 40)], 0, true)),
        ("two have one", vec![hole, hole, all], vec![hole, hole, all], (vec![(0, 40), (1, 40)], 0, true)),
        ("all have it", vec![hole; 3], vec![hole; 3], (vec![], 40, true)),
        ("one server", vec![hole], vec![hole], (vec![], 40, true)),
        (
            "the front is gone",
            vec![all, counts(41, 100, 60), all],
            vec![all, counts(41, 100, 60), all],
            (vec![(1, 40)], 0, true),
        ),
        (
            "the end is still fetched",
            vec![all, counts(1, 60, 60), all],
            vec![all, counts(1, 80, 80), all],
            (vec![], 0, false),
        ),
        ("events come", vec![ahead, all, all], vec![counts(1, 150, 150), ahead, ahead], (vec![], 0, true)),
        (
            "events come, and one has a hole",
            vec![ahead, hole, all],
            vec![ahead, counts(1, 140, 100), ahead],
            (vec![(1, 40)], 0, true),
        ),
        ("events go", vec![counts(51, 100, 50), all, all], vec![counts(51, 100, 50); 3], (vec![], 0, true)),
        (
            "other bytes",
            vec![all, all, Counts { bytes: 1, ..all }],
            vec![all, all, Counts { bytes: 1, ..all }],
            (vec![(2, 0)], 0, true),
        ),
        (
            "the leader's are others",
            vec![Counts { bytes: 1, ..all }, all, all],
            vec![Counts { bytes: 1, ..all }, all, all],
            (vec![(0, 0)], 0, true),
        ),
        ("a hole that is filled", vec![all, hole, all], vec![all; 3], (vec![], 0, true)),
    ];
    for (what, earlier, later, expected) in table {
        assert_eq!(found("events", &earlier, &later), expected, "{what}");
    }
}

#[test]
fn of_other_streams_single_messages_go() {
    let (before, after) = (counts(1, 100, 60), counts(1, 100, 50));
    assert_eq!(found("dead-letters", &[before; 3], &[after; 3]), (vec![], 0, true));
    assert_eq!(found("dead-letters", &[after, before, after], &[after; 3]), (vec![], 0, true), "a moment behind");
    let bad = counts(1, 100, 30);
    assert_eq!(found("dead-letters", &[after, bad, after], &[after, bad, after]), (vec![(1, 20)], 0, true));
    let behind = [after, before, after];
    assert_eq!(
        found("dead-letters", &[bad, before, bad], &behind),
        (vec![], 0, true),
        "one has not heard of what went"
    );
    assert!(
        seen("dead-letters", &[after; 3]).is_plain(&Acknowledged::new())
            && !seen("events", &[after; 3]).is_plain(&Acknowledged::new())
    );
}

#[test]
fn what_is_not_there_yet_is_not_judged() {
    let all = counts(1, 100, 100);
    let whole = seen("events", &[all; 3]);
    assert!(whole.is_plain(&Acknowledged::new()));
    let change = |with: fn(&mut Copies)| {
        let mut look = whole.clone();
        look.streams.values_mut().for_each(with);
        look
    };
    for look in [
        change(|it| it.leader = None),
        change(|it| it.is_moving = true),
        change(|it| it.counts.retain(|server, _| *server != 1)),
    ] {
        assert!(!look.is_plain(&Acknowledged::new()));
        assert_eq!(judge(&whole, &look, &Acknowledged::new()).unfinished, [id("events")]);
    }
    // A server that was not there at the first look.
    assert_eq!(
        judge(&change(|it| it.counts.retain(|server, _| *server != 1)), &whole, &Acknowledged::new()).unfinished,
        [id("events")]
    );
    assert_eq!(judge(&Look::default(), &whole, &Acknowledged::new()).unfinished, [id("events")]);
}

#[test]
fn what_was_acknowledged_and_is_on_no_server_is_lost() {
    let (short, all) = (counts(1, 90, 90), counts(1, 100, 100));
    let known = Acknowledged::from([(id("events"), 100)]);
    let tails = |earlier: &[Counts], later: &[Counts]| {
        let findings = judge(&seen("events", earlier), &seen("events", later), &known);
        assert_eq!(findings.is_passed(), findings.tails.is_empty() && findings.unfinished.is_empty());
        findings.tails.iter().map(|tail| (tail.first, tail.last)).collect::<Vec<_>>()
    };
    assert_eq!(tails(&[short], &[short]), [(91, 100)]);
    assert_eq!(tails(&[short; 3], &[short; 3]), [(91, 100)]);
    assert_eq!(tails(&[all], &[counts(1, 150, 150)]), []);
    assert_eq!(tails(&[short, all, short], &[short, all, short]), [], "another server has it");
    assert_eq!(tails(&[short; 3], &[all; 3]), [], "it was still read");
    assert!(seen("events", &[all]).is_plain(&known) && !seen("events", &[short]).is_plain(&known));
    assert!(seen("events", &[short]).is_plain(&Acknowledged::new()));
}

#[test]
fn what_a_server_may_have_that_is_away_is_not_lost() {
    let (all, hole, short) = (counts(1, 100, 100), counts(1, 100, 60), counts(1, 90, 90));
    let at = |look: &Look| elsewhere(look, look, &id("events"), None, 3);
    let of = |counts: &[Counts]| seen("events", counts);
    assert_eq!(at(&of(&[hole, all, all])), Elsewhere::Yes);
    assert_eq!(at(&of(&[hole; 3])), Elsewhere::No);
    assert_eq!(at(&of(&[short; 3])), Elsewhere::No);
    assert_eq!(at(&of(&[short, all, short])), Elsewhere::Unknown(vec![]), "the others still get it");
    let away = |counts: &[Counts], gone: &[Ordinal]| {
        let mut look = of(counts);
        look.totals.servers.retain(|server, _| !gone.contains(server));
        look.streams.values_mut().for_each(|copies| copies.counts.retain(|server, _| !gone.contains(server)));
        look
    };
    assert_eq!(at(&away(&[hole; 3], &[2])), Elsewhere::Unknown(vec![2]), "it may have them");
    assert_eq!(at(&away(&[hole; 3], &[1, 2])), Elsewhere::Unknown(vec![1, 2]));
    let change = |with: fn(&mut Copies)| {
        let mut look = of(&[hole; 3]);
        look.streams.values_mut().for_each(with);
        look
    };
    assert_eq!(at(&change(|it| it.leader = None)), Elsewhere::Unknown(vec![]));
    assert_eq!(at(&change(|it| it.is_moving = true)), Elsewhere::Unknown(vec![]));
    assert_eq!(at(&Look::default()), Elsewhere::Unknown(vec![0, 1, 2]), "the stream was not seen");
    // A server that is joining has no copy of it.
    let mut single = of(&[hole]);
    single.totals.servers = BTreeMap::from([(0, "S0".to_owned())]);
    assert_eq!(at(&single), Elsewhere::No);
}

/// Or a loss would never be told while events come, and nothing be released.
#[test]
fn copies_that_are_a_moment_behind_are_seen_at_the_second_look() {
    let hole = |last| counts(1, last, last - 40);
    let earlier = seen("events", &[hole(100), hole(101), hole(101)]);
    let later = seen("events", &[hole(150), hole(151), hole(151)]);
    let asked = |earlier, later| elsewhere(earlier, later, &id("events"), None, 3);
    assert_eq!(asked(&earlier, &earlier), Elsewhere::Unknown(vec![]));
    assert_eq!(asked(&later, &later), Elsewhere::Unknown(vec![]), "one look never does");
    assert_eq!(asked(&earlier, &later), Elsewhere::No);
    let whole = seen("events", &[hole(150), counts(1, 151, 151), hole(151)]);
    assert_eq!(asked(&earlier, &whole), Elsewhere::Yes);
    let late = seen("events", &[hole(150), hole(100), hole(151)]);
    assert_eq!(asked(&earlier, &late), Elsewhere::Unknown(vec![]), "it is still being made");
}

#[test]
fn what_another_copy_than_the_leaders_lacks_is_not_asked_for() {
    let (all, hole, worse) = (counts(1, 100, 100), counts(1, 100, 60), counts(1, 100, 50));
    let asked =
        |all: &[Counts], leader| elsewhere(&seen("events", all), &seen("events", all), &id("events"), leader, 3);
    assert_eq!(asked(&[hole, worse, hole], None), Elsewhere::No, "what 0 lacks no server has");
    assert_eq!(asked(&[hole, worse, hole], Some(0)), Elsewhere::No);
    assert_eq!(asked(&[all, hole, all], Some(1)), Elsewhere::Yes, "1 led it when it was found");
    assert_eq!(
        asked(&[all; 3], Some(1)),
        Elsewhere::Unknown(vec![]),
        "what 0 lacks, which leads it now, is yet to be seen"
    );
}

fn site(pods: usize) -> Site {
    Site { names: (0..5).map(|ordinal| format!("b-{ordinal}")).collect(), pods, ..Site::default() }
}

fn steps(look: &Look) -> Vec<HealStep> {
    next(&site(3), look, &judge(look, look, &Acknowledged::new()), 3)
}

#[test]
fn a_whole_copy_leads_before_the_others_go() {
    let (all, hole) = (counts(1, 100, 100), counts(1, 100, 60));
    let (lead, keep) =
        (|name: &str| HealStep::Lead(id("events"), name.into()), HealStep::Keep(id("events"), "b-0".into()));
    assert_eq!(steps(&seen("events", &[all; 3])), []);
    assert_eq!(steps(&seen("events", &[hole, all, all])), [lead("b-1")]);
    assert_eq!(steps(&seen("events", &[hole, hole, all])), [lead("b-2")]);
    assert_eq!(steps(&seen("events", &[all, hole, all])), [keep]);
    assert_eq!(steps(&seen("events", &[hole; 3])), [], "what no server has cannot be made");
    let behind = seen("events", &[all, hole, counts(1, 90, 90)]);
    assert_eq!(steps(&behind), [], "no copy is removed that is still being made");
    let mut away = seen("events", &[all, hole, all]);
    away.totals.servers.remove(&2);
    assert_eq!(steps(&away), [], "nor while a server is away");
}

#[test]
fn a_single_copy_gets_the_others_whoever_finds_it() {
    let mut look = seen("events", &[counts(1, 100, 100)]);
    look.totals.servers = (0..3).map(|ordinal| (ordinal, String::new())).collect();
    assert_eq!(steps(&look), [HealStep::Copy(id("events"), 3)]);
    look.streams.values_mut().for_each(|copies| copies.is_moving = true);
    assert_eq!(steps(&look), []);
    look.streams = (0..9)
        .map(|number| (id(&number.to_string()), seen("x", &[counts(1, 1, 1)]).streams[&id("x")].clone()))
        .collect();
    assert_eq!(steps(&look).len(), 4, "a few at a time");
}

/// What happens to a stream on its servers, each of which hears of it a little later.
#[derive(Clone, Debug)]
enum Happens {
    Store(u64),
    Remove(u64),
    Hear(Ordinal, u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (1_u64..9).prop_map(Happens::Store),
        (1_u64..9).prop_map(Happens::Remove),
        (0_usize..3, 1_u64..9).prop_map(|(server, most)| Happens::Hear(server, most)),
    ]
}

/// What was ever stored (`true`) and removed, in its order, and how much of that each server has heard.
#[derive(Clone, Default)]
struct Model {
    log: Vec<bool>,
    heard: [usize; 3],
}

impl Model {
    fn run(&mut self, happens: &[Happens]) {
        for it in happens {
            match it {
                Happens::Store(count) => self.log.extend((0..*count).map(|_| true)),
                Happens::Remove(count) => {
                    let stored = self.log.iter().filter(|stored| **stored).count();
                    let left = 2 * stored - self.log.len();
                    self.log.extend((0..*count).map(|_| false).take(left));
                }
                Happens::Hear(server, most) => {
                    let most = usize::try_from(*most).unwrap();
                    self.heard[*server] = (self.heard[*server] + most).min(self.log.len());
                }
            }
        }
    }

    fn hear_all(&mut self) {
        self.heard = [self.log.len(); 3];
    }

    /// `damaged`: a server that lacks so many.
    fn look(&self, name: &str, damaged: Option<(Ordinal, u64)>) -> Look {
        let all: Vec<Counts> = self
            .heard
            .iter()
            .enumerate()
            .map(|(server, heard)| {
                let last = self.log[..*heard].iter().filter(|stored| **stored).count() as u64;
                let removed = *heard as u64 - last;
                let lacks = damaged.filter(|(other, _)| *other == server).map_or(0, |(_, lacks)| lacks);
                counts(removed + 1, last, (last - removed).saturating_sub(lacks))
            })
            .collect();
        seen(name, &all)
    }
}

proptest! {
    /// However far apart the servers are: if whatever one had heard at the first look all have heard at the second one,
    /// no copy is called damaged that is not, and one that is, is found when nothing moves.
    #[test]
    fn only_a_damaged_copy_is_called_one(
        first in prop::collection::vec(happens(), 1..40),
        second in prop::collection::vec(happens(), 0..40),
        server in 0_usize..3,
        lacks in 1_u64..5,
        name in prop_oneof![Just("events"), Just("dead-letters")],
    ) {
        let mut model = Model::default();
        model.run(&first);
        let earlier = model.look(name, None);
        model.hear_all();
        model.run(&second);
        let later = model.look(name, None);
        prop_assert!(judge(&earlier, &later, &Acknowledged::new()).damaged.is_empty(), "{earlier:#?} {later:#?}");
        model.run(&[Happens::Store(9)]);
        model.hear_all();
        let look = model.look(name, Some((server, lacks)));
        let damaged: Vec<_> = judge(&look, &look, &Acknowledged::new()).damaged.iter().map(|it| (it.server, it.missing)).collect();
        prop_assert_eq!(damaged, [(server, lacks)]);
    }
}
