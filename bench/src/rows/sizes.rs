//! Events of 256 B, 1 KB and 64 KB, beside the raw client and POST.

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::contender::{Contender, Load, Program, compare};
use crate::events::Shape;
use crate::figures::Group;
use crate::{CONCURRENCY, report};

/// A size's name, its bytes, and events of a round.
const SIZES: [(&str, usize, u64); 3] = [("256b", 256, 10_000), ("1kb", 1 << 10, 10_000), ("64kb", 64 << 10, 1_500)];

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let note = format!("{CONCURRENCY} in flight, Relaxed, one server");
    report::note(&format!("sizes: {note}"));
    let mut group = Group { notes: vec![note], ..Group::default() };
    for (name, size, events) in SIZES {
        let broker = Broker::start(Durability::Relaxed, 1).await;
        let contenders = [
            Contender::sidecar(bench, &broker, &format!("sidecar-{name}"), |_| {}).await,
            Contender::new(&broker, &format!("raw-{name}"), Program::Raw).await,
        ];
        let load = Load { events, shape: Shape { size, ..Shape::default() }, rounds: bench.rounds };
        let all = compare(bench, &broker, &contenders, load).await?;
        if let [sidecar, raw] = &all[..] {
            group.row(&format!("size-{name}-cpu-ratio"), &sidecar.ratio(raw, |work| work.program), "reported")?;
            group.row(&format!("size-{name}-rate-ratio"), &sidecar.ratio(raw, |work| work.rate), "reported")?;
        }
        group.parties("size", &all)?;
    }
    Ok(group)
}
