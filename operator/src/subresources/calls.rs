//! The calls: rights, bounds, the audit log, and the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures::future::BoxFuture;
use futures::stream;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_broker_client::outcomes::single_line;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::access::Target;
use super::answer::Refusal;
use super::data::query::{EventQuery, LetterQuery, Pairs};
use super::data::{Extent, Page, Shown, dead_letters, events};
use super::{Calls, GROUP, VERSION};
use crate::https::front_proxy::User;
use crate::sessions::brokers::Broker;

/// All of a call that is no watch. Below what the API server waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A call waits this long for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks for new events.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
/// The longest name of a resource, and of a namespace.
const MAX_NAME: usize = 253;
/// The longest text of a user's in the log, in bytes.
const MAX_LOGGED: usize = 256;

/// What to do where a page takes too long.
const FEWER_EVENTS: &str = "ask for fewer events at a time (limit)";
/// The same of what is named.
pub(super) const FEWER_SEQUENCES: &str = "name fewer sequences";

/// What there are too many of, where there is no turn.
const BUSY: &str = "calls for stored events";

pub(super) type Place = Path<(String, String)>;

/// Stored events of a topic, a page or a stream of them.
pub(super) async fn events(
    State(calls): State<Calls>,
    Extension(user): Extension<User>,
    Path((namespace, name)): Place,
    RawQuery(query): RawQuery,
) -> Response {
    let target = Target { namespace, resource: "eventtopics", name, subresource: "events" };
    let pairs = Pairs::parse(query.as_deref());
    let verb = if pairs.is_true("watch") { "watch" } else { "get" };
    let answered = bounded(FEWER_EVENTS, async {
        calls.admit(&user, verb, &target).await?;
        let query = EventQuery::parse(&pairs).map_err(Refusal::bad_request)?;
        if verb == "watch" { watch(&calls, &target, query).await } else { event_page(&calls, &target, &query).await }
    });
    log(&user, verb, &target, answered.await)
}

async fn event_page(calls: &Calls, target: &Target, query: &EventQuery) -> Result<(Response, usize), Refusal> {
    let _turn = turn(&calls.reads).await?;
    let broker = calls.locator.topic(&target.namespace, &target.name).await?;
    let extent = events::extent(&broker.api).await?;
    let from = event_start(&broker, target, query, &extent).await?;
    let page = events::page(&broker.api, from, query.limit).await?;
    Ok(list("StoredEventList", page, &extent))
}

async fn event_start(broker: &Broker, target: &Target, query: &EventQuery, extent: &Extent) -> Result<u64, Refusal> {
    let from = events::start(&broker.api, query, extent).await?;
    if !extent.reaches(from) {
        return Err(Refusal::expired(&format!("EventTopic {}", target.name), from, extent.last));
    }
    Ok(from)
}

/// A line for each event, as a watch of Kubernetes has it, until the time is over: the client continues after the sequence
/// that it saw last. (The API server itself ends a call for a subresource after a minute.)
async fn watch(calls: &Calls, target: &Target, query: EventQuery) -> Result<(Response, usize), Refusal> {
    let permit = Arc::clone(&calls.watches).try_acquire_owned().map_err(|_| Refusal::busy(BUSY))?;
    let broker = calls.locator.topic(&target.namespace, &target.name).await?;
    let extent = events::extent(&broker.api).await?;
    let from = event_start(&broker, target, &query, &extent).await?;
    let end = Instant::now() + query.timeout;
    let watch = Watch { broker, from, end, is_begun: false, has_page: false, _permit: permit };
    let lines = stream::unfold(Some(watch), async |watch| watch?.next().await);
    let response = ([(CONTENT_TYPE, "application/json;stream=watch")], Body::from_stream(lines));
    Ok((response.into_response(), 0))
}

struct Watch {
    broker: Arc<Broker>,
    from: u64,
    end: Instant,
    /// Whether its first line is sent.
    is_begun: bool,
    /// Whether a page was read: one is, however short its time.
    has_page: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Option<Self>)> {
        loop {
            if !self.is_begun {
                // At once, so that whoever watches knows that it is answered, and from where on.
                self.is_begun = true;
                let line = json!({"type": "BOOKMARK", "object": {"kind": "StoredEvent", "sequence": self.from.saturating_sub(1)}});
                return Some((Ok(format!("{line}\n").into()), Some(self)));
            }
            // Also while there is always more: whoever catches up for long begins again.
            if self.has_page && Instant::now() >= self.end {
                return None;
            }
            self.has_page = true;
            match events::page(&self.broker.api, self.from, events::WATCH_LIMIT).await {
                Ok(page) if page.items.is_empty() => self.from = page.from,
                Ok(page) => {
                    self.from = page.from;
                    return Some((Ok(added(&page.items)), Some(self)));
                }
                Err(error) => {
                    let line = json!({"type": "ERROR", "object": Refusal::from(error).status()});
                    return Some((Ok(format!("{line}\n").into()), None));
                }
            }
            if Instant::now() + WATCH_PAUSE >= self.end {
                return None;
            }
            sleep(WATCH_PAUSE).await;
        }
    }
}

/// Lines of a watch.
fn added(items: &[Shown]) -> Bytes {
    // Nothing in it cannot be written: maps with names, and JSON.
    let line = |item| serde_json::to_string(&Line { r#type: "ADDED", object: item }).ok();
    items.iter().filter_map(line).flat_map(|line| [line, "\n".to_owned()]).collect::<String>().into()
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    object: &'a Shown,
}

/// Dead letters of a handler.
pub(super) async fn dead_letters(
    State(calls): State<Calls>,
    Extension(user): Extension<User>,
    Path((namespace, name)): Place,
    RawQuery(query): RawQuery,
) -> Response {
    let target = Target { namespace, resource: "eventhandlers", name, subresource: "deadletters" };
    let answered = bounded(FEWER_EVENTS, async {
        calls.admit(&user, "get", &target).await?;
        let query = LetterQuery::parse(&Pairs::parse(query.as_deref())).map_err(Refusal::bad_request)?;
        let _turn = turn(&calls.reads).await?;
        let handler = calls.locator.handler(&target.namespace, &target.name).await?;
        let extent = dead_letters::extent(&handler.broker.api, &handler.known_as).await?;
        if !extent.reaches(query.from) {
            return Err(Refusal::expired(&format!("EventHandler {}", target.name), query.from, extent.last));
        }
        let page = dead_letters::page(&handler.broker.api, &handler.known_as, &query).await?;
        Ok(list("DeadLetterList", page, &extent))
    });
    log(&user, "get", &target, answered.await)
}

/// One dead letter, whole.
pub(super) async fn dead_letter(
    State(calls): State<Calls>,
    Extension(user): Extension<User>,
    Path((namespace, name, sequence)): Path<(String, String, String)>,
) -> Response {
    let target = Target { namespace, resource: "eventhandlers", name, subresource: "deadletters" };
    let answered = bounded("see whether its EventBroker is Ready", async {
        calls.admit(&user, "get", &target).await?;
        let sequence = sequence.parse().map_err(|_| {
            Refusal::bad_request("the last part of the path is the sequence of a dead letter, a number")
        })?;
        let _turn = turn(&calls.reads).await?;
        let handler = calls.locator.handler(&target.namespace, &target.name).await?;
        let letter = dead_letters::one(&handler.broker.api, &handler.known_as, sequence).await?;
        let version = format!("{GROUP}/{VERSION}");
        let letter = letter.with([("kind", "DeadLetter".into()), ("apiVersion", version.into())]);
        Ok((Json(letter).into_response(), 1))
    });
    log(&user, "get", &target, answered.await)
}

/// Removes the dead letters whose sequences are named.
pub(super) async fn drop_dead_letters(
    State(calls): State<Calls>,
    Extension(user): Extension<User>,
    Path((namespace, name)): Place,
    RawQuery(query): RawQuery,
) -> Response {
    let target = Target { namespace, resource: "eventhandlers", name, subresource: "deadletters" };
    let answered = bounded(FEWER_SEQUENCES, async {
        calls.admit(&user, "delete", &target).await?;
        let sequences = Pairs::parse(query.as_deref()).sequences().map_err(Refusal::bad_request)?;
        let _turn = turn(&calls.reads).await?;
        let handler = calls.locator.handler(&target.namespace, &target.name).await?;
        let gone = dead_letters::drop(&handler.broker.api, &handler.known_as, &sequences).await?;
        let dropped = sequences.len() - gone.len();
        let message = format!("{dropped} of {} dead letters were removed; the others were not there", sequences.len());
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "message": message,
            "details": {"dropped": dropped, "gone": gone},
        });
        Ok((Json(status).into_response(), dropped))
    });
    log(&user, "delete", &target, answered.await)
}

impl Calls {
    pub(super) async fn admit(&self, user: &User, verb: &str, target: &Target) -> Result<(), Refusal> {
        for part in [&target.namespace, &target.name] {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            if part.is_empty() || part.len() > MAX_NAME || !part.chars().all(is_name) || part.starts_with('.') {
                return Err(Refusal::bad_request("the path has a part that is no name of a resource: correct it"));
            }
        }
        self.access.check(user, verb, target).await
    }
}

pub(super) async fn turn(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    match timeout(TURN_TIMEOUT, Arc::clone(of).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refusal::busy(BUSY)),
    }
}

/// A call's answer, in bounded time. Boxed: it is large, and lies within all that serves it.
/// `remedy`: what to do where it takes too long.
pub(super) fn bounded<'a>(
    remedy: &'static str,
    answer: impl Future<Output = Result<(Response, usize), Refusal>> + Send + 'a,
) -> BoxFuture<'a, Result<(Response, usize), Refusal>> {
    let late = move || Refusal::unavailable(format!("this took too long: {remedy}, or try again"));
    Box::pin(async move { timeout(CALL_TIMEOUT, answer).await.unwrap_or_else(|_| Err(late())) })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    kind: &'static str,
    api_version: String,
    metadata: Value,
    items: Vec<Shown>,
}

/// `extent`: what there was before the page was read.
fn list(kind: &'static str, page: Page, extent: &Extent) -> (Response, usize) {
    let count = page.items.len();
    let time = extent.time.format(&Rfc3339).unwrap_or_default();
    let mut metadata = json!({"firstSequence": extent.first, "lastSequence": extent.last, "time": time});
    if page.more {
        metadata["continue"] = page.from.to_string().into();
    }
    let list = List { kind, api_version: format!("{GROUP}/{VERSION}"), metadata, items: page.items };
    (Json(list).into_response(), count)
}

/// The audit log: who asked for what, and how much it got. Nothing of an event is in it.
pub(super) fn log(user: &User, verb: &str, target: &Target, answered: Result<(Response, usize), Refusal>) -> Response {
    let line = |text: &str| single_line(text, MAX_LOGGED);
    let (response, items) = match answered {
        Ok(answer) => answer,
        Err(refusal) if refusal.code().is_client_error() => (refusal.into_response(), 0),
        Err(refusal) => {
            tracing::warn!(?refusal, "a call for stored events was not answered");
            (refusal.into_response(), 0)
        }
    };
    tracing::info!(
        user = line(&user.name),
        verb,
        resource = target.resource,
        subresource = target.subresource,
        namespace = line(&target.namespace),
        name = line(&target.name),
        items,
        status = response.status().as_u16(),
        "stored events were asked for"
    );
    response
}
