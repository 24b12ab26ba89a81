//! A handler's keys are divided into another number of lanes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidegate_broker_admin::api::{Broker, StreamInfo};
use tidegate_broker_admin::consumers::Start;
use tidegate_broker_admin::relocation::{self, Floors, Scan};
use tidegate_broker_client::contract::Order;
use tidegate_crds::handler::{EventHandlerStatus, LanesChange, LanesStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::{Place, Preparation, STEP, Topic, set_position, signed};
use crate::broker::groups;
use crate::context::Context;
use crate::handler::position;
use crate::reconcile::error::Error;

/// The longest that lanes may take to finish what they have. Then what they have acknowledged beyond it comes again.
const DRAIN_LIMIT: SignedDuration = SignedDuration::from_secs(60);
/// Between two looks whether they have.
const DRAIN_PERIOD: Duration = Duration::from_secs(1);
/// Between two looks whether there are groups for more lanes. Their number is counted every ten minutes.
const GROUPS_PERIOD: Duration = Duration::from_secs(30);

/// Whether the broker can have the raft groups of the lanes that come: a change that finds that it cannot, when its pods
/// have ended and its consumers are gone, leaves a handler that handles nothing.
///
/// # Errors
/// It cannot; the message says what to do.
pub(super) fn check_groups(context: &Context, topic: &Topic, status: &LanesStatus, count: u16) -> Result<(), Error> {
    match usize::try_from(i32::from(count).saturating_sub(status.count)) {
        Ok(more) if more > 0 => groups::check(context, &topic.place.broker, "change of delivery.lanes", more),
        _ => Ok(()),
    }
}

/// Whether the pods end for it. It begins only when the broker can have as many lanes, and, because what is parked is moved
/// copy by copy, when there is room for one copy. Then each lane finishes what it has, so that nothing is acknowledged
/// beyond what is not, which would come again.
///
/// # Errors
/// The broker is away.
pub async fn prepare(
    broker: &Broker,
    handler: &str,
    (status, count): (&LanesStatus, u16),
    shelf: &StreamInfo,
    groups: Result<(), Error>,
    waits: String,
) -> Result<Preparation, Error> {
    let change = format!("delivery.lanes: {} lanes become {count}", status.count);
    if let (None, Err(full)) = (&status.change, groups) {
        let message =
            format!("{change} when there are groups for them: {full}. Or make delivery.lanes {} again", status.count);
        return Ok(Preparation { message: Some(message), again: Some(GROUPS_PERIOD), ..Preparation::default() });
    }
    if status.change.is_none() && !relocation::has_room(shelf) {
        let message = format!(
            "{change} when there is room for one more event that waits for a retry: repair the handler so that some of them are handled, or make delivery.lanes {} again",
            status.count
        );
        return Ok(Preparation { message: Some(message), ..Preparation::default() });
    }
    let now = Timestamp::now();
    let since = status.draining_since.as_ref().and_then(|since| since.parse::<Timestamp>().ok());
    let draining_since = Some(since.unwrap_or(now).to_string());
    let Some(since) = since else {
        let message = Some(format!("{change}: its lanes finish what they have"));
        return Ok(Preparation { message, draining_since, again: Some(Duration::ZERO), ..Preparation::default() });
    };
    let lanes = u16::try_from(status.count).unwrap_or(1);
    let is_over = now.duration_since(since) >= DRAIN_LIMIT || status.change.is_some();
    if !is_over && !relocation::are_drained(broker, handler, lanes).await? {
        let message = Some(format!("{change}: its lanes finish what they have"));
        return Ok(Preparation { message, draining_since, again: Some(DRAIN_PERIOD), ..Preparation::default() });
    }
    let message = Some(format!("{change}; {waits}"));
    Ok(Preparation { stops: true, message, draining_since, ..Preparation::default() })
}

/// Does what comes next, and tells it.
///
/// # Errors
/// The broker is away.
pub(super) async fn step(
    place: &Place<'_>,
    before: &LanesStatus,
    count: u16,
    status: &mut EventHandlerStatus,
) -> Result<String, Error> {
    let message = match before.count == i32::from(count) {
        true => format!("delivery.lanes: the {count} lanes are made again"),
        false => format!("delivery.lanes: {} lanes become {count}", before.count),
    };
    let mut lanes = LanesStatus { message: Some(message.clone()), ..before.clone() };
    place.shut_out().await?;
    let Some(mut change) = lanes.change.take() else {
        // On record before a consumer goes: with it goes how far it was.
        lanes.change = Some(planned(count, floors(place, before).await?));
        status.lanes = Some(lanes);
        return Ok(message);
    };
    if change.count != i32::from(count) {
        // Another number is asked for by now. On record before a consumer goes: the release of events waits for so many.
        change.count = i32::from(count);
        lanes.change = Some(change);
        status.lanes = Some(lanes);
        return Ok(message);
    }
    let (broker, handler) = (&place.broker.api, &place.name());
    let (order, after) = (Order::Key { lanes: count }, u64::try_from(change.after).unwrap_or(0));
    let mut scan = match change.end.and_then(|end| u64::try_from(end).ok()) {
        Some(end) => Scan { examined: u64::try_from(change.examined).unwrap_or(0), end, is_over: false },
        None => {
            relocation::begin_after(broker, &place.consumers(order), after).await?;
            Scan::begin(broker, handler).await?
        }
    };
    // That there is a shelf to sort is on record before a copy is moved: from then on the number stays.
    if change.end.is_some() {
        relocation::sort_into_lanes(broker, handler, count, &mut scan, Instant::now() + STEP).await?;
    }
    (change.examined, change.end) = (signed(scan.examined), Some(signed(scan.end)));
    if scan.is_over {
        set_position(status, &place.position(order, after).await?);
        let LanesChange { count, settled, settled_before, .. } = change;
        lanes = LanesStatus { count, settled, settled_before, ..LanesStatus::default() };
    } else {
        lanes.change = Some(change);
    }
    status.lanes = Some(lanes);
    Ok(message)
}

fn planned(count: u16, floors: Floors) -> LanesChange {
    LanesChange {
        count: i32::from(count),
        after: signed(floors.after),
        settled: floors.settled.into_iter().map(signed).collect(),
        settled_before: floors.settled_before.and_then(|time| time.format(&Rfc3339).ok()),
        ..LanesChange::default()
    }
}

async fn floors(place: &Place<'_>, before: &LanesStatus) -> Result<Floors, Error> {
    let broker = &place.broker.api;
    let begins = match place.settings.start {
        // Its position is on record from its first moment.
        Start::Latest | Start::Earliest => 0,
        Start::Sequence(sequence) => sequence.saturating_sub(1),
        start @ Start::Time(_) => {
            let target = relocation::resolve(broker, start, OffsetDateTime::now_utc()).await?;
            target.map_or(0, |target| target.sequence - 1)
        }
    };
    let count = u16::try_from(before.count).unwrap_or(1);
    let settled: Vec<u64> = before.settled.iter().map(|settled| u64::try_from(*settled).unwrap_or(0)).collect();
    let recorded = position::recorded(place.handler);
    Ok(relocation::floors(broker, &place.name(), count, &recorded, begins, &settled).await?)
}
