//! The figures.

mod delivery;
mod direct;
mod durability;
mod features;
mod hostile;
mod ingress;
mod latency;
mod memory;
mod sizes;
mod slow;
mod telemetry;

use std::time::Duration;

use anyhow::{Context as _, bail};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::bench::{Bench, Options};
use crate::figures::{self, Group};
use crate::{page, report};

/// The groups of figures, in the order in which they are measured: what is soon known first.
pub const GROUPS: [&str; 11] = [
    "memory",
    "delivery",
    "telemetry",
    "features",
    "ingress",
    "hostile",
    "latency",
    "sizes",
    "slow",
    "durability",
    "direct",
];

/// One group; what takes longer is broken.
const LIMIT: Duration = Duration::from_secs(8 * 60);

/// Measures, prints and keeps the groups that are asked for.
///
/// # Errors
/// Some did not work; the others are printed and kept.
pub async fn measure(bench: &Bench, options: &Options) -> anyhow::Result<()> {
    let asked = |group: &&str| options.groups.is_empty() || options.groups.iter().any(|asked| asked == group);
    // Before half an hour is spent on figures that could not be kept.
    let mut kept = options.save.as_deref().map(figures::load).transpose()?.unwrap_or_default();
    let mut failures = Vec::new();
    for name in GROUPS.into_iter().filter(asked) {
        let begun = std::time::Instant::now();
        match timeout(LIMIT, group(name, bench)).await.with_context(|| format!("not within {LIMIT:?}")).flatten() {
            Ok(mut group) => {
                group.notes.push(circumstances(bench)?);
                report::note(&format!("{name} took {:.0} s", begun.elapsed().as_secs_f64()));
                kept.insert(name.to_owned(), group);
                if let Some(folder) = &options.save {
                    figures::save(folder, &kept)?;
                    page::write(folder, &kept)?;
                }
            }
            Err(error) => {
                report::note(&format!("{name}: {error:#}"));
                failures.push(name);
            }
        }
    }
    if !failures.is_empty() {
        bail!("these groups failed: {}", failures.join(", "));
    }
    Ok(())
}

/// When and where it was measured.
fn circumstances(bench: &Bench) -> anyhow::Result<String> {
    let cores = std::thread::available_parallelism()?;
    Ok(format!("measured on {}, {cores} cores, {} rounds", OffsetDateTime::now_utc().date(), bench.rounds))
}

async fn group(name: &str, bench: &Bench) -> anyhow::Result<Group> {
    match name {
        "delivery" => delivery::measure(bench).await,
        "telemetry" => telemetry::measure(bench).await,
        "features" => features::measure(bench).await,
        "sizes" => sizes::measure(bench).await,
        "slow" => slow::measure(bench).await,
        "durability" => durability::measure(bench).await,
        "direct" => direct::measure(bench).await,
        "ingress" => ingress::measure(bench).await,
        "hostile" => Box::pin(hostile::measure(bench)).await,
        "latency" => latency::measure(bench).await,
        "memory" => memory::measure(bench).await,
        _ => anyhow::bail!("there is no such group"),
    }
}
