//! Whether events that a topic's stream lacks are on another server than the one that leads it.

use std::time::Duration;

use tidegate_broker_admin::audit::{self, Elsewhere};
use tidegate_broker_admin::membership::{Ordinal, Site, StreamId};
use tidegate_broker_client::layout::EVENT_STREAM;
use tokio::time::sleep;

use crate::broker::restart;
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::sessions::brokers::Place;

/// Between two looks: what a copy was a moment behind with at the first one it has at the second.
const PAUSE: Duration = Duration::from_secs(2);

/// Whether events of a topic that the server lacks which leads them may be on another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// They are: they are not lost.
    Elsewhere,
    /// They are on none.
    Nowhere,
    /// That cannot be said now; why, in words.
    Unknown(String),
}

impl Whereabouts {
    fn new(found: Elsewhere, site: &Site) -> Self {
        match found {
            Elsewhere::Yes => Self::Elsewhere,
            Elsewhere::No => Self::Nowhere,
            Elsewhere::Unknown(away) if away.is_empty() => {
                let why =
                    "a copy of the stream is still being made, or no server leads it, or another one than a moment ago";
                Self::Unknown(why.to_owned())
            }
            Elsewhere::Unknown(away) => {
                let names: Vec<&str> = away.iter().filter_map(|it| site.names.get(*it)).map(String::as_str).collect();
                let verb = if names.len() == 1 { "does" } else { "do" };
                Self::Unknown(format!("{} {verb} not answer", names.join(", ")))
            }
        }
    }
}

/// Asks the servers. `leader`: the one that lacks the events, where it is known. What may be elsewhere is a reason to audit the
/// broker.
pub(crate) async fn whereabouts(context: &Context, place: &Place, account: &str, leader: Option<&str>) -> Whereabouts {
    let site = restart::site(place);
    let leader = leader.and_then(|leader| site.names.iter().position(|name| name == leader));
    let stream = StreamId { account: account.to_owned(), name: EVENT_STREAM.to_owned() };
    let found = match seek(context, place, &site, &stream, leader).await {
        Ok(found) => Whereabouts::new(found, &site),
        Err(error) => Whereabouts::Unknown(format!("the servers cannot be asked ({error})")),
    };
    if found != Whereabouts::Nowhere {
        context.broker_changes.add(place.broker.clone());
    }
    found
}

/// Looks, and once more where all servers answer and that did not tell.
async fn seek(
    context: &Context,
    place: &Place,
    site: &Site,
    stream: &StreamId,
    leader: Option<Ordinal>,
) -> Result<Elsewhere, Error> {
    let servers = context.brokers.servers(place).await?;
    let look =
        async || audit::look(servers.system_client(), site).await.map_err(|error| Error::Broker(error.to_string()));
    let earlier = look().await?;
    let found = audit::elsewhere(&earlier, &earlier, stream, leader, site.pods);
    if found != Elsewhere::Unknown(Vec::new()) {
        return Ok(found);
    }
    sleep(PAUSE).await;
    let later = look().await?;
    Ok(audit::elsewhere(&earlier, &later, stream, leader, site.pods))
}
