//! The figures.

mod delivery;
mod direct;
mod features;
mod ingress;
mod latency;
mod memory;
mod slow;

use crate::broker::Broker;

/// The groups of figures, in the order in which they are measured.
pub const GROUPS: [&str; 7] = ["delivery", "features", "direct", "ingress", "latency", "memory", "slow"];

/// Measures and prints one group, or `all`.
///
/// # Errors
/// Something did not work; what was measured before is printed.
pub async fn measure(group: &str) -> anyhow::Result<()> {
    let broker = Broker::start().await?;
    for each in GROUPS.into_iter().filter(|name| group == "all" || group == *name) {
        match each {
            "delivery" => delivery::measure(&broker).await?,
            "features" => features::measure(&broker).await?,
            "direct" => direct::measure().await?,
            "ingress" => ingress::measure(&broker).await?,
            "latency" => latency::measure(&broker).await?,
            "memory" => memory::measure(&broker).await?,
            _ => slow::measure(&broker).await?,
        }
    }
    Ok(())
}
