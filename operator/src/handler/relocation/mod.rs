//! Changes of a handler's place in its topic: to another event (`spec.replay`), or to another number of lanes.
//!
//! A sidecar remembers what it settled, and may acknowledge what it was lent, whoever has it by now. So a place is moved
//! while none is there: the pods end, the handler's account is shut out of the broker (what Kubernetes has forgotten may
//! still run), the consumers are made again where they are to begin, the retry shelf is put in order, and the pods start
//! again. Where it is to begin is in the status before anything is moved, so an operator that continues for another
//! comes to the same end; what is done in the status is never done again.
//!
//! [`next`] decides what comes next (pure), [`prepare`] looks whether it can be done while the pods are still there, and
//! [`run`] does a step of it without them.

mod lanes;
mod replay;

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::relocation;
use tidegate_broker_client::contract::{Order, Relocation, Routing};
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::{EventHandlerStatus, LanesStatus, Replay, ReplayPhase, ReplayStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::context::{Context, Owner};
use crate::handler::observe::{Observed, Topic};
use crate::handler::settings::Settings;
use crate::handler::subscribe::{self, Subscription};
use crate::handler::{position, status};
use crate::reconcile::error::Error;
use crate::sessions::brokers::Broker;

pub use replay::{refused_on_direct, withdrawn};

/// The longest that a step walks through the retry shelf.
const STEP: Duration = Duration::from_secs(5);

/// The change that comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change<'a> {
    /// To another number of lanes.
    Lanes {
        /// As it is.
        status: &'a LanesStatus,
        /// As it is to be.
        count: u16,
    },
    /// A replay that is asked for and has not begun.
    NewReplay(&'a Replay),
    /// A replay that has begun.
    Replay(&'a ReplayStatus),
}

/// What is done without the handler's pods. A replay that has not begun does: it begins with them.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Of a change of the number of lanes, to this one.
    Lanes(&'a LanesStatus, u16),
    /// Of a replay.
    Replay(&'a ReplayStatus),
}

impl<'a> Change<'a> {
    /// What of it is done without pods.
    pub fn step(self) -> Option<Step<'a>> {
        match self {
            Self::Lanes { status, count } => Some(Step::Lanes(status, count)),
            Self::Replay(status) => Some(Step::Replay(status)),
            Self::NewReplay(_) => None,
        }
    }
}

/// What a handler's status says of its lanes; `None`: nothing yet, or it has none.
pub fn known_lanes(handler: &EventHandler) -> Option<&LanesStatus> {
    handler.status.as_ref()?.lanes.as_ref()
}

/// How many lanes a handler has now, where that is known.
pub fn lane_count(handler: &EventHandler) -> Option<u16> {
    u16::try_from(known_lanes(handler)?.count).ok().filter(|count| *count > 0)
}

/// How many lanes have, or are about to have, a place: while their number changes, those that are being made count too. One
/// that is not there yet holds up the release of events.
pub fn most_lanes(handler: &EventHandler) -> Option<u16> {
    let change = known_lanes(handler).and_then(|lanes| lanes.change.as_ref());
    let planned = change.and_then(|change| u16::try_from(change.count).ok()).unwrap_or(0);
    lane_count(handler).map(|count| count.max(planned))
}

/// What comes next. A change that has begun to move something is finished before another begins, whatever is asked for
/// by now. Lanes that are made and have got nothing yet are none: another number does as well, and so does the former one.
pub fn next<'a>(handler: &'a EventHandler, wanted: Order) -> Option<Change<'a>> {
    let replay = handler.status.as_ref().and_then(|status| status.replay.as_ref());
    if let Some(replay) = replay.filter(|replay| replay.phase == ReplayPhase::Moving) {
        return Some(Change::Replay(replay));
    }
    if let (Order::Key { lanes: wanted }, Some(status)) = (wanted, known_lanes(handler)) {
        let under_way = status.change.as_ref().filter(|change| change.end.is_some());
        let under_way = under_way.and_then(|change| u16::try_from(change.count).ok());
        let count = under_way.unwrap_or(wanted);
        if status.change.is_some() || i32::from(count) != status.count {
            return Some(Change::Lanes { status, count });
        }
    }
    let asked = handler.spec.replay.as_ref()?;
    match replay.filter(|replay| replay.request == asked.request) {
        None => Some(Change::NewReplay(asked)),
        Some(replay) if replay.phase == ReplayPhase::Stopping => Some(Change::Replay(replay)),
        Some(_) => None,
    }
}

/// Whether a replay is asked for that has not ended. What is published before it moves the handler's place may be passed over
/// by that.
pub fn awaits_replay(handler: &EventHandler) -> bool {
    let replay = handler.status.as_ref().and_then(|status| status.replay.as_ref());
    let ended = replay.filter(|replay| matches!(replay.phase, ReplayPhase::Done | ReplayPhase::Refused));
    handler.spec.replay.as_ref().is_some_and(|asked| ended.is_none_or(|ended| ended.request != asked.request))
}

/// The handler's lanes: those that its status tells, else those that the broker has, else those that are wanted.
///
/// # Errors
/// The broker is away.
pub async fn current_order(
    context: &Context,
    owner: &Owner,
    handler: &EventHandler,
    topic: &Topic,
    wanted: Order,
) -> Result<Order, Error> {
    let Order::Key { lanes: wanted } = wanted else { return Ok(wanted) };
    if topic.routing != Routing::Queued {
        return Ok(Order::Key { lanes: wanted });
    }
    let lanes = match lane_count(handler) {
        Some(count) => count,
        None => {
            let broker = subscribe::broker(context, topic).await?;
            relocation::lanes_of(&broker.api, &subscribe::known_as(owner, topic)).await?.unwrap_or(wanted)
        }
    };
    Ok(Order::Key { lanes })
}

/// Whether the lanes are to finish what they have: a change that waits for that was noted before.
pub fn is_draining(change: Option<Change<'_>>) -> bool {
    matches!(change, Some(Change::Lanes { status: LanesStatus { draining_since: Some(_), .. }, .. }))
}

/// What sidecars have to know of changes that are done.
pub fn of_sidecars(handler: &EventHandler) -> Relocation {
    let replays = handler.status.as_ref().and_then(|status| status.replay.as_ref()).map_or(0, |replay| replay.count);
    let lanes = known_lanes(handler);
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let settled_before = lanes.and_then(|lanes| nanoseconds(lanes.settled_before.as_deref()?)).unwrap_or(0);
    let settled = lanes.into_iter().flat_map(|lanes| &lanes.settled).copied().map(unsigned).collect();
    Relocation { rewinds: unsigned(replays), settled, settled_before }
}

fn nanoseconds(time: &str) -> Option<u64> {
    u64::try_from(OffsetDateTime::parse(time, &Rfc3339).ok()?.unix_timestamp_nanos()).ok()
}

/// Whether something of the handler's place was moved already. It is not let in before all is.
pub fn has_begun(change: Change<'_>) -> bool {
    match change {
        Change::Lanes { status, .. } => status.change.is_some(),
        Change::Replay(status) => status.phase == ReplayPhase::Moving,
        Change::NewReplay(_) => false,
    }
}

/// The end of the pods that somebody else started while something is moved: what they would acknowledge is not theirs.
///
/// # Errors
/// The API server did not take the status.
pub async fn wait_for_end(
    context: &Context,
    handler: &EventHandler,
    owner: &Owner,
    pods: &[Pod],
) -> Result<Action, Error> {
    let message = waits_for_end(pods);
    status::write_moving(context, handler, owner, handler.status.clone().unwrap_or_default(), &message).await?;
    // The pods are watched.
    Ok(Action::requeue(STEP))
}

/// Whether the handler's pods have ended. A handler that never had any has to be made first.
pub fn has_stopped(change: Change<'_>, deployment: Option<&Deployment>, pods: &[Pod]) -> bool {
    let Some(deployment) = deployment else {
        // Somebody has removed it in the middle.
        return has_begun(change) && pods.iter().all(has_ended);
    };
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let seen = deployment.status.as_ref().filter(|status| status.observed_generation == deployment.metadata.generation);
    replicas == Some(0) && seen.is_some_and(|status| status.replicas.unwrap_or(0) == 0) && pods.iter().all(has_ended)
}

/// One that is on its way out still delivers what it has.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// What becomes of the handler while its pods are still there.
#[derive(Debug, Default)]
pub struct Preparation {
    /// Whether its pods have to end.
    pub stops: bool,
    /// What a replay's status is to be, if it changes.
    pub replay: Option<ReplayStatus>,
    /// What is to be told of a change of the number of lanes.
    pub message: Option<String>,
    /// Since when its lanes finish what they have.
    pub draining_since: Option<String>,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

impl Preparation {
    /// What is added where deliveries do not wait for it.
    pub fn note(&self) -> String {
        self.message.as_ref().map(|message| format!("; {message}")).unwrap_or_default()
    }

    /// What deliveries wait for.
    pub fn why(&self) -> &str {
        let replay = self.replay.as_ref().and_then(|replay| replay.message.as_deref());
        self.message.as_deref().or(replay).unwrap_or("the handler's pods end")
    }
}

/// Looks whether a change can be done, and whether the pods have to end for it.
///
/// # Errors
/// The broker is away.
pub async fn prepare(
    context: &Context,
    owner: &Owner,
    topic: &Topic,
    change: Change<'_>,
    before: Option<&ReplayStatus>,
    observed: &Observed,
    subscription: &Subscription,
) -> Result<Preparation, Error> {
    let waits = || waits_for_end(&observed.pods);
    let broker = subscribe::broker(context, topic).await?;
    Ok(match change {
        Change::NewReplay(asked) => replay::begin(&broker, asked, before).await?,
        Change::Replay(status) => {
            let replay = ReplayStatus { message: Some(waits()), ..status.clone() };
            Preparation { stops: true, replay: Some(replay), ..Preparation::default() }
        }
        Change::Lanes { count, status } => {
            let groups = lanes::check_groups(context, topic, status, count);
            let (name, shelf) = (subscribe::known_as(owner, topic), &subscription.streams.retries);
            lanes::prepare(&broker.api, &name, (status, count), shelf, groups, waits()).await?
        }
    })
}

fn waits_for_end(pods: &[Pod]) -> String {
    match waiting_for(pods) {
        Some(pods) => format!("waits until the handler's pods have ended: {pods}"),
        None => "waits until the handler's pods have ended".to_owned(),
    }
}

/// The first of the pods that have not ended.
fn waiting_for(pods: &[Pod]) -> Option<String> {
    let mut alive = pods.iter().filter(|pod| !has_ended(pod));
    let first = alive.next()?.name_any();
    Some(match alive.count() {
        0 => first,
        others => format!("{first} and {others} more"),
    })
}

/// Whose place is moved, and on which broker.
pub(super) struct Place<'a> {
    pub context: &'a Context,
    pub handler: &'a EventHandler,
    pub owner: &'a Owner,
    pub topic: &'a Topic,
    pub broker: &'a Broker,
    /// With the number of lanes that there are.
    pub settings: &'a Settings,
}

impl Place<'_> {
    /// The handler's name in its topic's account.
    fn name(&self) -> String {
        subscribe::known_as(self.owner, self.topic)
    }

    /// After this nothing that a sidecar sent reaches the broker, until the handler is subscribed again.
    async fn shut_out(&self) -> Result<(), Error> {
        let authority = &self.topic.place.authority;
        Ok(self.broker.system.shut_out_handler(authority, &self.name(), &self.owner.reference.uid).await?)
    }

    /// What its consumers are to be, with so many lanes where they have an order.
    fn consumers(&self, order: Order) -> tidegate_broker_admin::consumers::Handler {
        let consumers = subscribe::consumers_of(&self.name(), &self.owner.reference.uid, self.settings);
        tidegate_broker_admin::consumers::Handler { order, is_draining: false, ..consumers }
    }

    /// The position of consumers that all begin after this sequence.
    async fn position(&self, order: Order, sequence: u64) -> Result<Position, Error> {
        let stream = self.broker.api.stream(layout::EVENT_STREAM).await?;
        let names = self.consumers(order).configs().into_iter().filter_map(|config| config.durable_name);
        Ok(Position {
            stream_created: Some(stream.created),
            acknowledged: names.map(|name| (name, sequence)).collect(),
        })
    }
}

/// Whether a change can be done of a handler whose pods have ended. One that cannot begin needs them.
///
/// # Errors
/// The broker is away.
pub async fn can_run(context: &Context, owner: &Owner, topic: &Topic, step: Step<'_>) -> Result<bool, Error> {
    let Step::Lanes(status @ LanesStatus { change: None, .. }, count) = step else { return Ok(true) };
    if lanes::check_groups(context, topic, status, count).is_err() {
        return Ok(false);
    }
    let broker = subscribe::broker(context, topic).await?;
    Ok(relocation::has_room(&broker.api.stream(&layout::retry_stream(&subscribe::known_as(owner, topic))).await?))
}

/// Does a step of a change, of a handler whose pods have ended, and writes how far it is.
///
/// # Errors
/// The broker or the API server is away; what was done is done, and is done again.
pub async fn run(
    context: &Context,
    handler: &EventHandler,
    owner: &Owner,
    topic: &Topic,
    settings: &Settings,
    step: Step<'_>,
) -> Result<Action, Error> {
    let broker = subscribe::broker(context, topic).await?;
    let _places = broker.places().await;
    let place = Place { context, handler, owner, topic, broker: &broker, settings };
    let mut status = handler.status.clone().unwrap_or_default();
    let message = match step {
        Step::Replay(replay) => replay::step(&place, replay, &mut status).await?,
        Step::Lanes(lanes, count) => lanes::step(&place, lanes, count, &mut status).await?,
    };
    status::write_moving(context, handler, owner, status, &message).await?;
    Ok(Action::requeue(Duration::ZERO))
}

/// Puts a position where the status has it.
fn set_position(status: &mut EventHandlerStatus, position: &Position) {
    status.position = Some(position::shown_as(status.position.as_ref(), position));
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
