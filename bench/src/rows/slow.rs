//! What one slow event costs the others: of 256 in flight, one takes two seconds.

use std::path::Path;
use std::time::Duration;

use crate::broker::Broker;
use crate::handler::Handler;
use crate::pace::Pace;
use crate::{ROUNDS, process, report};

/// Events of a round. They take less time than the slow one, so that it is in flight all the while.
const EVENTS: u64 = 10_000;
const CONCURRENCY: u16 = 256;
const SLOW: Duration = Duration::from_secs(2);
const SIDECAR: &str = "slow-sidecar";

pub async fn measure(broker: &Broker) -> anyhow::Result<()> {
    let identity = broker.handler(SIDECAR).await;
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let without = rate(broker, &identity, false).await?;
        let with = rate(broker, &identity, true).await?;
        report::note(&format!("  per second: without a slow event {without:.0}, with one {with:.0}"));
        ratios.push(with / without);
    }
    report::row("slow-event-ratio", &ratios, ">= 0.95")?;
    Ok(())
}

/// Events per second, the slow one counted when it arrives.
async fn rate(broker: &Broker, identity: &Path, with_slow: bool) -> anyhow::Result<f64> {
    let first = broker.publish(EVENTS).await?.start;
    let pace = Pace::of(EVENTS);
    let handler = Handler::start({
        let pace = pace.clone();
        move |number| {
            pace.step();
            if with_slow && number == first { SLOW } else { Duration::ZERO }
        }
    })?;
    let _process = process::sidecar(broker, SIDECAR, identity, handler.port, CONCURRENCY).await?;
    pace.finished().await?;
    pace.rate()
}
