//! The same sidecar at a broker that does not wait for the disk, at one that does, and at three servers.

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::contender::{Contender, Load, Rounds, compare};
use crate::events::Shape;
use crate::figures::Group;
use crate::{CONCURRENCY, report};

/// Events of a round.
const EVENTS: u64 = 10_000;
const WAYS: [(&str, Durability, usize); 3] =
    [("relaxed-r1", Durability::Relaxed, 1), ("fsync-r1", Durability::Fsync, 1), ("fsync-r3", Durability::Fsync, 3)];

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let note =
        format!("{EVENTS} events of 256 bytes a round, {CONCURRENCY} in flight; the servers of R3 share this machine");
    report::note(&format!("durability: {note}"));
    let mut ways = Vec::new();
    for (label, durability, replicas) in WAYS {
        let broker = Broker::start(durability, replicas).await;
        let contender = Contender::sidecar(bench, &broker, label, |_| {}).await;
        ways.push((broker, contender, Rounds { label: label.to_owned(), works: Vec::new() }));
    }
    let load = Load { events: EVENTS, shape: Shape::default(), rounds: 1 };
    for _ in 0..bench.rounds {
        for (broker, contender, rounds) in &mut ways {
            for once in compare(bench, broker, std::slice::from_ref(contender), load).await? {
                rounds.works.extend(once.works);
            }
        }
    }
    let all: Vec<Rounds> = ways.into_iter().map(|(_, _, rounds)| rounds).collect();
    let mut group = Group { notes: vec![note], ..Group::default() };
    if let [relaxed, one, three] = &all[..] {
        group.row("delivery-fsync-r1-rate-ratio", &one.ratio(relaxed, |work| work.rate), "reported")?;
        group.row("delivery-fsync-r3-rate-ratio", &three.ratio(relaxed, |work| work.rate), "reported")?;
    }
    group.parties("durability", &all)?;
    Ok(group)
}
