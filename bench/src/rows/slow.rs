//! Handlers that take their time: all of them, one event in 256 in flight, and a thousand among many; and one that
//! fails for some events.

use std::sync::Arc;
use std::time::Duration;

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::contender::{Contender, Load, Program, compare};
use crate::events::Shape;
use crate::figures::Group;
use crate::handler::{self, Answer, Script};
use crate::report;

/// What each event takes a handler, and events of a round.
const TIMES: [(u64, u64); 2] = [(5, 10_000), (50, 2_500)];
const CONCURRENCY: u16 = 64;

/// One slow event: these many others, in flight with it. They take less time than it does.
const ONE_EVENTS: u64 = 10_000;
const ONE_CONCURRENCY: u16 = 256;
const ONE_TIME: Duration = Duration::from_secs(2);

/// A thousand slow events among 130,000: one in so many, which takes so long.
const MANY_EVENTS: u64 = 130_000;
const MANY_EVERY: u64 = 130;
const MANY_TIME: Duration = Duration::from_secs(1);
const MANY_CONCURRENCY: u16 = 1024;
/// It takes half a minute each.
const MANY_ROUNDS: usize = 3;

/// One event in so many fails at its first attempt, and waits for the next one as by default.
const FAILING_EVENTS: u64 = 130_000;
const FAILING_EVERY: u64 = 50;

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let mut group = Group::default();
    for (time, events) in TIMES {
        of_all(bench, &mut group, time, events).await?;
    }
    one(bench, &mut group).await?;
    many(bench, &mut group).await?;
    failing(bench, &mut group).await?;
    Ok(group)
}

async fn of_all(bench: &Bench, group: &mut Group, time: u64, events: u64) -> anyhow::Result<()> {
    note(group, format!("{events} events, each takes the handler {time} ms, {CONCURRENCY} in flight"));
    let broker = Broker::start(Durability::Relaxed, 1).await;
    let script = || handler::taking(Duration::from_millis(time));
    let sidecar = Contender::sidecar(bench, &broker, &format!("sidecar-{time}ms"), |_| {}).await;
    let raw = Contender::new(&broker, &format!("raw-{time}ms"), Program::Raw).await;
    let contenders = [sidecar.with(script(), CONCURRENCY), raw.with(script(), CONCURRENCY)];
    let load = Load { events, shape: Shape::default(), rounds: bench.rounds };
    let all = compare(bench, &broker, &contenders, load).await?;
    if let [sidecar, raw] = &all[..] {
        group.row(&format!("handler-{time}ms-rate-ratio"), &sidecar.ratio(raw, |work| work.rate), "reported")?;
        group.row(&format!("handler-{time}ms-cpu-ratio"), &sidecar.ratio(raw, |work| work.program), "reported")?;
    }
    Ok(group.parties("slow", &all)?)
}

async fn one(bench: &Bench, group: &mut Group) -> anyhow::Result<()> {
    note(group, format!("{ONE_EVENTS} events, one of which takes {ONE_TIME:?}, {ONE_CONCURRENCY} in flight"));
    let broker = Broker::start(Durability::Relaxed, 1).await;
    let none = Contender::sidecar(bench, &broker, "no-slow-event", |_| {}).await;
    let one = Contender::sidecar(bench, &broker, "one-slow-event", |_| {}).await;
    let script = slow(bench.scaled(ONE_EVENTS), ONE_TIME);
    let contenders = [none.with(handler::prompt(), ONE_CONCURRENCY), one.with(script, ONE_CONCURRENCY)];
    let load = Load { events: ONE_EVENTS, shape: Shape::default(), rounds: bench.rounds };
    let all = compare(bench, &broker, &contenders, load).await?;
    if let [none, one] = &all[..] {
        group.row("slow-event-ratio", &one.ratio(none, |work| work.rate), ">= 0.95")?;
    }
    Ok(group.parties("slow", &all)?)
}

async fn many(bench: &Bench, group: &mut Group) -> anyhow::Result<()> {
    note(
        group,
        format!("{MANY_EVENTS} events, one in {MANY_EVERY} of which takes {MANY_TIME:?}, {MANY_CONCURRENCY} in flight"),
    );
    bench.allow_connections(u64::from(MANY_CONCURRENCY) * 2)?;
    let broker = Broker::start(Durability::Relaxed, 1).await;
    let fast = Contender::sidecar(bench, &broker, "sidecar-all-fast", |_| {}).await;
    let sidecar = Contender::sidecar(bench, &broker, "sidecar-some-slow", |_| {}).await;
    let raw = Contender::new(&broker, "raw-some-slow", Program::Raw).await;
    let script = || slow(MANY_EVERY, MANY_TIME);
    let contenders = [
        fast.with(handler::prompt(), MANY_CONCURRENCY),
        sidecar.with(script(), MANY_CONCURRENCY),
        raw.with(script(), MANY_CONCURRENCY),
    ];
    let load = Load { events: MANY_EVENTS, shape: Shape::default(), rounds: bench.rounds.min(MANY_ROUNDS) };
    let all = compare(bench, &broker, &contenders, load).await?;
    if let [fast, slow, raw] = &all[..] {
        group.row("thousand-slow-rate-ratio", &slow.ratio(fast, |work| work.rate), "reported")?;
        group.row("thousand-slow-to-raw-rate-ratio", &slow.ratio(raw, |work| work.rate), "reported")?;
    }
    Ok(group.parties("slow", &all)?)
}

async fn failing(bench: &Bench, group: &mut Group) -> anyhow::Result<()> {
    note(
        group,
        format!(
            "{FAILING_EVENTS} events, one in {FAILING_EVERY} of which fails once, {CONCURRENCY} in flight; the rate of the others"
        ),
    );
    let broker = Broker::start(Durability::Relaxed, 1).await;
    let none = Contender::sidecar(bench, &broker, "none-fails", |_| {}).await;
    let some = Contender::sidecar(bench, &broker, "some-fail", |_| {}).await;
    let script: Script = Arc::new(|number, attempt| Answer {
        unavailable: attempt == 1 && number.is_multiple_of(FAILING_EVERY),
        ..Answer::default()
    });
    let contenders = [
        none.with(handler::prompt(), CONCURRENCY).late(FAILING_EVERY),
        some.with(script, CONCURRENCY).late(FAILING_EVERY),
    ];
    let load = Load { events: FAILING_EVENTS, shape: Shape::default(), rounds: bench.rounds };
    let all = compare(bench, &broker, &contenders, load).await?;
    if let [none, some] = &all[..] {
        group.row("failing-2-percent-rate-ratio", &some.ratio(none, |work| work.rate), ">= 0.95")?;
        group.row("failing-2-percent-cpu-ratio", &some.ratio(none, |work| work.program), "reported")?;
    }
    Ok(group.parties("slow", &all)?)
}

/// One event in so many takes so long, the first of a backlog among them.
fn slow(every: u64, time: Duration) -> Script {
    Arc::new(move |number, _| {
        let after = if number.is_multiple_of(every) { time } else { Duration::ZERO };
        Answer { after, ..Answer::default() }
    })
}

fn note(group: &mut Group, note: String) {
    report::note(&format!("slow: {note}"));
    group.notes.push(note);
}
