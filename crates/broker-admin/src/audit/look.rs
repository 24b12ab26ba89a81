//! Asks the servers what they have, over the system account, with the bounds of [`crate::membership`].

use std::collections::BTreeMap;

use tidegate_wire::nats::Client;

use super::{Copies, Look, Totals};
use crate::membership::{ObserveError, Ordinal, ServerReport, Servers, Site, StreamId, is_moving, leader};

/// Asks all servers for what each of them has of each stream. `system`: a user of the system account.
///
/// # Errors
/// As [`ObserveError`] says. That a server does not answer is none: it is not among those seen.
pub async fn look(system: &Client, site: &Site) -> Result<Look, ObserveError> {
    let reports = Servers { system, site }.streams(site.pods).await?;
    let mut streams: BTreeMap<StreamId, Copies> = BTreeMap::new();
    for (ordinal, report) in &reports {
        for (id, detail) in &report.streams {
            let copies = streams.entry(id.clone()).or_default();
            copies.counts.insert(*ordinal, detail.state);
            // The leader's word counts; where there is none, that of any of them.
            let leads = leader(detail, site) == Some(*ordinal);
            if leads || copies.leader.is_none() {
                copies.wanted = detail.config.num_replicas.max(1);
                copies.leader = leads.then_some(*ordinal);
                copies.expires = detail.config.max_age > 0;
            }
            copies.is_moving |= detail.cluster.as_ref().is_some_and(is_moving);
        }
    }
    Ok(Look { totals: sum(&reports)?, streams })
}

/// Asks all servers which they are and how much they have: one small answer of each.
///
/// # Errors
/// As for [`look`].
pub async fn totals(system: &Client, site: &Site) -> Result<Totals, ObserveError> {
    sum(&Servers { system, site }.totals().await?)
}

fn sum(reports: &BTreeMap<Ordinal, ServerReport>) -> Result<Totals, ObserveError> {
    let servers: BTreeMap<Ordinal, String> =
        reports.iter().map(|(ordinal, report)| (*ordinal, report.id.clone())).collect();
    let groups = reports.values().map(ServerReport::groups).max().ok_or(ObserveError::NoAnswer)?;
    Ok(Totals { servers, groups })
}
