//! What the account of a broker's ingresses has of its topics.
//!
//! It has something of every topic, so it is large, and all topics that come while it is being pushed are in the next push
//! together.

use tidegate_broker_admin::push::AccountState;
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use time::OffsetDateTime;

use crate::broker::topics::{self, Topic};
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::sessions::brokers::{Due, Effect, Place, Servers};

/// Makes the account of the ingresses have something of every topic that has an account, and of this one, which has one.
///
/// A server that does not know an account from which another imports asks around for it for seconds, and does nothing else
/// meanwhile: so nothing is imported from an account before it is there. `is_changed`: the servers were given this
/// topic's account just now, and may have something of an older one of its name in that of the ingresses.
///
/// # Errors
/// The broker is away or refuses. A push that fails does so for all topics that were in it for the first time.
pub async fn serve(
    context: &Context,
    place: &Place,
    servers: &Servers,
    with: Option<(&Topic, bool)>,
) -> Result<(), Error> {
    if let Some((topic, is_changed)) = with {
        let mut accounts = servers.accounts().await?;
        let id = accounts.id_of(&place.authority, &topic.id)?;
        accounts.add(id, is_changed);
        // Those of all others are seen to by their own reconciles, and by the clock.
        if accounts.serves(&topic.id, topic.routing) {
            return Ok(());
        }
    }
    let wanted = with.map(|(topic, _)| (topic.id.clone(), topic.routing));
    servers.ingress_rounds.join(wanted, |wanted| push(context, place, servers, wanted)).await
}

/// One round: what all who wait for it want.
async fn push(
    context: &Context,
    place: &Place,
    servers: &Servers,
    wanted: Vec<Option<(TopicId, Routing)>>,
) -> Result<Effect, Error> {
    let mut topics = topics::routings(context, &place.broker);
    topics.extend(wanted.into_iter().flatten());
    let mut all = Vec::with_capacity(topics.len());
    let (due, changes) = {
        let mut accounts = servers.accounts().await?;
        for (topic, routing) in topics {
            let id = accounts.id_of(&place.authority, &topic)?;
            if accounts.has(&id) {
                all.push((topic, routing));
            }
        }
        accounts.begin(&all)
    };
    if due == Due::Nothing {
        return Ok(Effect::Nothing);
    }
    let account = place.authority.ingress_account(&all, OffsetDateTime::now_utc())?;
    let state = match due {
        Due::Push => servers.system.push(&account).await.map(|()| AccountState::Pushed)?,
        Due::Compare | Due::Nothing => servers.system.ensure(&account).await?,
    };
    servers.accounts().await?.set_served(all, changes, state);
    Ok(if state.is_pushed() { Effect::Changed } else { Effect::Nothing })
}
