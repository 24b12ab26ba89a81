//! A sidecar with the product's defaults, beside the raw client and POST, a consumer written in Go, and daprd.

use crate::bench::Bench;
use crate::broker::Broker;
use crate::contender::{Contender, Load, Program, Rounds, compare};
use crate::daprd::Daprd;
use crate::events::Shape;
use crate::figures::Group;
use crate::process::Environment;
use crate::{CONCURRENCY, peers, report};

/// Events of a round.
const EVENTS: u64 = 15_000;

const SIDECAR: &str = "sidecar";
const RAW: &str = "raw";
const BEFORE: &str = "before";
const GO: &str = "go";
const DAPRD: &str = "daprd";

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let broker = Broker::default().await;
    let contenders = contenders(bench, &broker).await?;
    let load = Load { events: EVENTS, shape: Shape::default(), rounds: bench.rounds };
    let note = format!("{EVENTS} events of 256 bytes a round, {CONCURRENCY} in flight, Fsync, one server");
    report::note(&format!("delivery: {note}"));
    let all = compare(bench, &broker, &contenders, load).await?;
    let mut group = Group { notes: vec![note], ..Group::default() };
    let named = |label: &str| all.iter().find(|rounds: &&Rounds| rounds.label == label);
    if let (Some(sidecar), Some(raw)) = (named(SIDECAR), named(RAW)) {
        group.row("sidecar-cpu-to-raw-ratio", &sidecar.ratio(raw, |work| work.program), "<= 0.65")?;
        group.row("sidecar-rate-to-raw-ratio", &sidecar.ratio(raw, |work| work.rate), "reported")?;
        if let Some(go) = named(GO) {
            group.row("sidecar-rate-to-go-ratio", &sidecar.ratio(go, |work| work.rate), ">= 1.35")?;
            group.row("sidecar-cpu-to-go-ratio", &sidecar.ratio(go, |work| work.program), "reported")?;
        }
        if let Some(daprd) = named(DAPRD) {
            group.row("sidecar-rate-to-daprd-ratio", &sidecar.ratio(daprd, |work| work.rate), ">= 3")?;
            group.row("sidecar-cpu-to-daprd-ratio", &sidecar.ratio(daprd, |work| work.program), "reported")?;
        }
        if let Some(before) = named(BEFORE) {
            group.row("sidecar-cpu-to-before-ratio", &sidecar.ratio(before, |work| work.program), "reported")?;
            group.row("sidecar-rate-to-before-ratio", &sidecar.ratio(before, |work| work.rate), "reported")?;
        }
    }
    group.parties("delivery", &all)?;
    Ok(group)
}

async fn contenders(bench: &Bench, broker: &Broker) -> anyhow::Result<Vec<Contender>> {
    let mut all =
        vec![Contender::sidecar(bench, broker, SIDECAR, |_| {}).await, Contender::new(broker, RAW, Program::Raw).await];
    if let Some(programs) = bench.before.clone() {
        let program = Program::Sidecar { programs, configure: Box::new(|_| {}), environment: Environment::new() };
        all.push(Contender::new(broker, BEFORE, program).await);
    }
    if let Some(program) = peers::go_consumer() {
        all.push(Contender::new(broker, GO, Program::Peer(program)).await);
    }
    if let Some(program) = peers::daprd() {
        let daprd = Daprd::start(&program, broker).await?;
        all.push(Contender::new(broker, DAPRD, Program::Daprd(Box::new(daprd))).await);
    }
    Ok(all)
}
