//! A handler continues with another event of its topic.

use std::time::Duration;

use tidegate_broker_admin::relocation::{self, Scan, Target};
use tidegate_broker_client::contract::Order;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::{EventHandlerStatus, Replay, ReplayPhase, ReplayStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::{Change, Place, Preparation, STEP, next, set_position, signed};
use crate::handler::settings;
use crate::reconcile::error::Error;
use crate::sessions::brokers::Broker;

/// The replay whose request was taken back, or replaced, before it moved anything.
pub fn withdrawn(handler: &EventHandler) -> Option<ReplayStatus> {
    let replay = handler.status.as_ref()?.replay.as_ref()?;
    let asked = handler.spec.replay.as_ref().map(|asked| &asked.request);
    let is_withdrawn = replay.phase == ReplayPhase::Stopping && asked != Some(&replay.request);
    is_withdrawn.then(|| ReplayStatus {
        phase: ReplayPhase::Refused,
        message: Some("spec.replay was changed before anything was moved".to_owned()),
        ..replay.clone()
    })
}

/// A Direct topic keeps no events.
pub fn refused_on_direct(handler: &EventHandler) -> Option<ReplayStatus> {
    let Some(Change::NewReplay(asked)) = next(handler, Order::None) else { return None };
    Some(ReplayStatus {
        request: asked.request.clone(),
        phase: ReplayPhase::Refused,
        message: Some("a Direct topic keeps no events: remove spec.replay, or use a Queued topic".to_owned()),
        ..ReplayStatus::default()
    })
}

/// Finds the event. No pod ends for it yet: `Latest` is another event a moment later, and what is published once the pods
/// end has to be delivered. So the event is on record first, and the next look, which goes by the record, ends the pods.
///
/// # Errors
/// The broker is away.
pub async fn begin(broker: &Broker, asked: &Replay, before: Option<&ReplayStatus>) -> Result<Preparation, Error> {
    let count = before.map_or(0, |before| before.count);
    let begun = ReplayStatus { request: asked.request.clone(), count, ..ReplayStatus::default() };
    let refused = |message: String| {
        let message = Some(message);
        ReplayStatus { phase: ReplayPhase::Refused, message, ..begun.clone() }
    };
    let replay = match settings::start("spec.replay.from", &asked.from) {
        Err(error) => refused(error.to_string()),
        Ok(start) => match relocation::resolve(&broker.api, start, OffsetDateTime::now_utc()).await? {
            Err(no_target) => refused(format!("spec.replay.from: {no_target}")),
            Ok(Target { sequence, time }) => ReplayStatus {
                sequence: Some(signed(sequence)),
                time: time.and_then(|time| time.format(&Rfc3339).ok()),
                message: Some("waits until the handler's pods have ended".to_owned()),
                ..begun
            },
        },
    };
    let again = (replay.phase == ReplayPhase::Stopping).then_some(Duration::ZERO);
    Ok(Preparation { stops: false, replay: Some(replay), again, ..Preparation::default() })
}

/// Does what comes next, and tells it.
///
/// # Errors
/// The broker is away.
pub(super) async fn step(
    place: &Place<'_>,
    before: &ReplayStatus,
    status: &mut EventHandlerStatus,
) -> Result<String, Error> {
    let mut replay = before.clone();
    let sequence = u64::try_from(replay.sequence.unwrap_or(1)).unwrap_or(1).max(1);
    let message = format!("spec.replay: the handler is moved to sequence {sequence}");
    replay.message = None;
    if replay.phase == ReplayPhase::Stopping {
        // From here on it is done to its end, whatever is asked for.
        replay.phase = ReplayPhase::Moving;
        status.replay = Some(replay);
        return Ok(message);
    }
    let (broker, order) = (&place.broker.api, place.settings.delivery.order);
    let mut scan = match replay.end.and_then(|end| u64::try_from(end).ok()) {
        Some(end) => Scan { examined: u64::try_from(replay.examined).unwrap_or(0), end, is_over: false },
        None => {
            place.shut_out().await?;
            relocation::begin_after(broker, &place.consumers(order), sequence - 1).await?;
            Scan::begin(broker, &place.name()).await?
        }
    };
    relocation::remove_from(broker, &place.name(), sequence, &mut scan, Instant::now() + STEP).await?;
    (replay.examined, replay.end) = (signed(scan.examined), Some(signed(scan.end)));
    if scan.is_over {
        replay.phase = ReplayPhase::Done;
        replay.count += 1;
        (replay.examined, replay.end) = (0, None);
        set_position(status, &place.position(order, sequence - 1).await?);
        if let Some(lanes) = &mut status.lanes {
            // What was settled before comes again because it was asked for.
            (lanes.settled, lanes.settled_before) = (Vec::new(), None);
        }
        place.context.keys.expire(&super::super::key(place.owner));
    }
    status.replay = Some(replay);
    Ok(message)
}
