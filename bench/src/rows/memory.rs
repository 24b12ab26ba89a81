//! Resident memory of the sidecar: idle after some work, and with as much in flight as it may have.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::sleep;

use crate::broker::Broker;
use crate::handler::Handler;
use crate::pace::Pace;
use crate::{CONCURRENCY, LIMIT, process, raw, report};

/// Memory hardly differs between rounds.
const ROUNDS: usize = 3;
const SIDECAR: &str = "memory-sidecar";
/// Events before the sidecar is called idle.
const SOME: u64 = 1000;
const MANY: u16 = 4096;
/// After this the sidecar has nothing left to do.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn measure(broker: &Broker) -> anyhow::Result<()> {
    allow_connections(u64::from(MANY) * 2)?;
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        idle.push(resident(broker, &format!("{SIDECAR}-idle-{round}"), SOME, CONCURRENCY, Duration::ZERO).await?);
        busy.push(resident(broker, &format!("{SIDECAR}-busy-{round}"), MANY.into(), MANY, LIMIT).await?);
    }
    report::row("sidecar-rss-idle-mb", &idle, "<= 12")?;
    report::row("sidecar-rss-4096-in-flight-mb", &busy, "<= 24")?;
    Ok(())
}

/// Memory after the handler got so many events, each of which takes it so long.
async fn resident(broker: &Broker, name: &str, count: u64, concurrency: u16, each: Duration) -> anyhow::Result<f64> {
    let identity = broker.handler(name).await;
    let pace = Pace::of(count);
    let counting = raw::counting(&pace);
    let handler = Handler::start(move |number| counting(number).max(each))?;
    let process = process::sidecar(broker, name, &identity, handler.port, concurrency).await?;
    broker.publish(count).await?;
    pace.finished().await?;
    sleep(SETTLED).await;
    let resident = process::resident_mb(process.id())?;
    // In order, it would finish what it has in flight.
    process.kill();
    Ok(resident)
}

/// The handler's side of so many connections lives in this process, the sidecar's in a child of it.
fn allow_connections(wanted: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        ensure!(hard >= wanted, "{wanted} open files are needed, {hard} are allowed");
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}
