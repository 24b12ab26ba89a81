//! Resident memory of the sidecar: idle after some work, and with as much in flight as it may have.

use std::time::Duration;

use tokio::time::sleep;

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::events::Shape;
use crate::figures::Group;
use crate::handler::{self, Handler};
use crate::meter::Meter;
use crate::{CONCURRENCY, LIMIT, process, report};

/// Memory hardly differs between rounds.
const ROUNDS: usize = 3;
/// Events before the sidecar is called idle.
const SOME: u64 = 1000;
const MANY: u16 = 4096;
/// After this the sidecar has nothing left to do.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    bench.allow_connections(u64::from(MANY) * 2)?;
    let broker = Broker::start(Durability::Relaxed, 1).await;
    let note = format!("resident memory after {SOME} events, and with {MANY} events of 256 bytes in flight");
    report::note(&format!("memory: {note}"));
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds.min(ROUNDS) {
        idle.push(resident(bench, &broker, &format!("idle-{round}"), SOME, CONCURRENCY, Duration::ZERO).await?);
        busy.push(resident(bench, &broker, &format!("busy-{round}"), MANY.into(), MANY, LIMIT).await?);
    }
    let mut group = Group { notes: vec![note], ..Group::default() };
    group.row("sidecar-rss-idle-mb", &idle, "<= 8")?;
    group.row("sidecar-rss-4096-in-flight-mb", &busy, "<= 16")?;
    Ok(group)
}

/// Memory after the handler got so many events, each of which takes it so long.
async fn resident(
    bench: &Bench,
    broker: &Broker,
    name: &str,
    count: u64,
    concurrency: u16,
    each: Duration,
) -> anyhow::Result<f64> {
    let identity = broker.handler(name).await;
    let meter = Meter::new(count);
    let handler = Handler::start(&meter, handler::taking(each))?;
    let config = process::sidecar_config(&broker.server, name, &identity, handler.port, concurrency);
    let mut process = bench.programs.sidecar(&config).await?;
    broker.publish(count, Shape::default()).await?;
    meter.finished(|| process.runs()).await?;
    sleep(SETTLED).await;
    let resident = process::resident_mb(process.id())?;
    // In order, it would finish what it has in flight.
    process.kill();
    Ok(resident)
}
