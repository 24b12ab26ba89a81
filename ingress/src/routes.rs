//! What publishers can ask for: to publish (`POST`), whether they may (`OPTIONS`), and to cancel an event that waits
//! (`DELETE`). [`crate::target`] says which topic a request is for.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tidegate_broker_client::message_id::{HEADER, Token, TopicKey};
use tidegate_broker_client::{contract, later};
use tidegate_cloudevents::{Event, http as binding};
use tidegate_publisher_auth::{Permission, Publisher};

use crate::admission::Admitted;
use crate::auth::{Identity, Peer, bearer};
use crate::connection::Answers;
use crate::intake::{Accepted, Intake, refusal};
use crate::message::Origin;
use crate::problem::Problem;
use crate::target::{self, Name, Resource};
use crate::topics::{Shared, Topics};
use crate::{body, trace, webhook};

/// The event's sequence in the stream; of a batch, the highest.
const SEQUENCE: HeaderName = HeaderName::from_static("tidegate-sequence");
/// `true` if all that was sent was stored before.
const DUPLICATE: HeaderName = HeaderName::from_static("tidegate-duplicate");
/// How many events of a batch were stored before, unless none was.
const DUPLICATES: HeaderName = HeaderName::from_static("tidegate-duplicates");

/// When an event is to be published: the same as its attribute.
const DELIVER_AT: HeaderName = HeaderName::from_static("tidegate-deliver-at");
/// The HTTPS listener. Without a framework: what one does for a request costs more than a publish.
#[derive(Clone)]
pub struct Routes(pub Arc<Topics>);

impl Answers for Routes {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        let Self(topics) = self;
        let started = Instant::now();
        let method = request.method().clone();
        let response = respond(topics, request, peer).await.unwrap_or_else(Problem::into_response);
        topics.shared.instruments.answered(&method, response.status(), started.elapsed());
        response
    }
}

/// Finds the topic, and asks it. Only whoever may publish to it learns whether it is there.
async fn respond(topics: &Topics, request: Request<Incoming>, peer: &Peer) -> Result<Response<Full<Bytes>>, Problem> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let Target { intake, name, resource } = find(topics, &uri, request.headers()).ok_or_else(Problem::no_topic)?;
    let call = Call { intake: intake.as_deref(), name, shared: &topics.shared, peer };
    match resource {
        Resource::Events if method == Method::POST => {
            let accepted = call.publish(request).await?;
            peer.used();
            Ok(accepted_response(&accepted, name))
        }
        Resource::Events if method == Method::OPTIONS => webhook::answer(request.headers()),
        Resource::Events => Err(Problem::method_not_allowed()),
        Resource::Delayed(key) if method == Method::DELETE => call.cancel(request.headers(), key).await,
        Resource::Delayed(_) => Err(Problem::only_delete()),
    }
}

/// What a request is for.
struct Target<'u> {
    /// `None`: there is no such topic.
    intake: Option<Arc<Intake>>,
    /// How the topic is named.
    name: Name<'u>,
    /// What of it the request is about.
    resource: Resource<'u>,
}

/// What a request is for; `None`: nothing that could be there.
fn find<'u>(topics: &Topics, uri: &'u Uri, headers: &HeaderMap) -> Option<Target<'u>> {
    let table = topics.current();
    let by_host = table.by_host(target::host(uri, headers));
    let (name, resource) = target::of_path(uri.path(), by_host.is_some())?;
    let intake = match name {
        Name::Host => by_host,
        Name::Path(path) => table.by_path(path),
    };
    Some(Target { intake: intake.cloned(), name, resource })
}

/// 202, with what the broker said.
fn accepted_response(Accepted { receipt, cancel_key }: &Accepted, name: Name<'_>) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    if receipt.sequence > 0 {
        headers.insert(SEQUENCE, receipt.sequence.into());
    }
    // A key is no more than letters, digits, `-` and `_`.
    let location = cancel_key.as_ref().and_then(|key| HeaderValue::try_from(target::location(name, key)).ok());
    if let Some(location) = location {
        headers.insert(LOCATION, location);
    }
    if receipt.repeats_all() {
        headers.insert(DUPLICATE, HeaderValue::from_static("true"));
    }
    if receipt.events > 1 && receipt.duplicates > 0 {
        headers.insert(DUPLICATES, receipt.duplicates.into());
    }
    response
}

/// What a request works with.
struct Call<'a> {
    /// `None`: there is no such topic.
    intake: Option<&'a Intake>,
    name: Name<'a>,
    shared: &'a Shared,
    peer: &'a Peer,
}

/// Whoever sent a request.
struct Caller {
    identity: Identity,
    /// The message id that a handler chose for its event.
    token: Option<Token>,
}

impl Call<'_> {
    /// Takes the events of a request: a receipt when the broker has acknowledged all of them.
    async fn publish(&self, request: Request<Incoming>) -> Result<Accepted, Problem> {
        let (head, body) = request.into_parts();
        let admitted = self.admit(body::size(&head.headers))?;
        match self.permit(&head.headers).await {
            Ok((intake, caller, permission)) => {
                let published = self.take(intake, &caller, &permission, (head, body), admitted).await;
                let outcome = published.as_ref().map(|accepted| accepted.receipt.events);
                intake.audit.record(Some(caller.identity.publisher()), outcome);
                published
            }
            Err(problem) => {
                // What was taken for it is for those that may publish.
                drop(admitted);
                body::refuse(body, &head.headers, &self.shared.limits).await;
                Err(problem)
            }
        }
    }

    fn admit(&self, bytes: usize) -> Result<Admitted, Problem> {
        let admission = &self.shared.admission;
        let topic = self.intake.map_or(admission.no_topic(), |intake| &intake.share);
        admission.admit(&self.peer.share, topic, bytes)
    }

    /// Finds out who it is, and what they may publish: nothing to a topic that is not there.
    async fn permit(&self, headers: &HeaderMap) -> Result<(&Intake, Caller, Permission), Problem> {
        let caller = self.caller(headers).await.map_err(|problem| self.refused(None, problem))?;
        let publisher = caller.identity.publisher();
        let permitted = match self.intake {
            Some(intake) => intake.permission(publisher).map(|permission| (intake, permission)),
            None => Err(refusal(publisher)),
        };
        let (intake, permission) = permitted.map_err(|problem| self.refused(Some(publisher), problem))?;
        Ok((intake, caller, permission))
    }

    fn refused(&self, publisher: Option<&Publisher>, problem: Problem) -> Problem {
        if let Some(intake) = self.intake {
            intake.audit.record(publisher, Err(&problem));
        }
        problem
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if let Some(token) = token(headers, self.intake.map(|intake| &*intake.message_ids))? {
            let identity = Identity::Other(Publisher::handler(token.handler_uid()));
            return Ok(Caller { identity, token: Some(token) });
        }
        let auth = &self.shared.auth;
        let audience = self.audience();
        let identity = auth.identify(bearer(headers)?, self.peer, audience.as_deref()).await?;
        Ok(Caller { identity, token: None })
    }

    /// The audience of the topic that was named, whether it is there or not; `None`: its name is no topic's.
    fn audience(&self) -> Option<Cow<'_, str>> {
        match (self.intake, self.name) {
            (Some(intake), _) => Some(Cow::from(&*intake.audience)),
            (None, Name::Path(path)) => path.parse().ok().map(|topic| Cow::from(contract::audience(&topic))),
            (None, Name::Host) => None,
        }
    }

    async fn take(
        &self,
        intake: &Intake,
        Caller { identity, token }: &Caller,
        permission: &Permission,
        (head, body): (Parts, Incoming),
        mut admitted: Admitted,
    ) -> Result<Accepted, Problem> {
        let limit = intake.share.request_limit;
        let body = body::read(body, &head.headers, limit, &mut admitted.room, &self.shared.limits).await?;
        let (mode, mut events) = binding::decode(&head.headers, body)?;
        if let Some(at) = delivery_time(&head.headers)? {
            delay(&mut events, mode, at)?;
        }
        if token.is_some() && mode == binding::Mode::Batched {
            return Err(Problem::named_batch());
        }
        tracing::debug!(mode = mode.name(), events = events.len(), "request decoded");
        let origin = token.as_ref().map_or_else(|| Origin::of(identity.publisher()), Origin::Handler);
        let context = trace::of_request(&head.headers);
        // With it goes what the request was read into: nothing of it is needed while the broker stores the events.
        drop(head);
        intake.publish(events, permission, origin, &context).await
    }

    /// Cancels an event that waits for its time. Whoever may publish to the topic may cancel what they know the key of,
    /// and a key is told only to the publisher of its event.
    async fn cancel(&self, headers: &HeaderMap, key: &str) -> Result<Response<Full<Bytes>>, Problem> {
        let _admitted = self.admit(body::size(headers))?;
        let (intake, caller, _) = self.permit(headers).await?;
        let publisher = caller.identity.publisher();
        match intake.cancel(key).await {
            Ok(()) => intake.audit.cancelled(publisher),
            Err(problem) => return Err(self.refused(Some(publisher), problem)),
        }
        self.peer.used();
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }
}

/// When the event is to be published, if the request says so in its own header.
fn delivery_time(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(DELIVER_AT).iter();
    let (first, more) = (values.next(), values.next());
    let Some(first) = first else { return Ok(None) };
    let text = first.to_str().ok().filter(|_| more.is_none());
    let invalid =
        || Problem::invalid_delivery_time(format!("{DELIVER_AT} must be there once, with an RFC 3339 timestamp"));
    text.map(Some).ok_or_else(invalid)
}

/// Says it of the event itself.
fn delay(events: &mut Vec<Event>, mode: binding::Mode, at: &str) -> Result<(), Problem> {
    let is_batch = mode == binding::Mode::Batched;
    let event = events.pop().filter(|event| !is_batch && event.attribute(later::ATTRIBUTE).is_none());
    let Some(event) = event else {
        return Err(Problem::invalid_delivery_time(format!(
            "{DELIVER_AT} is for one event that does not say it itself: leave the header out, or {} of the event; each \
             event of a batch says it itself",
            later::ATTRIBUTE
        )));
    };
    events.push(event.with_extension(later::ATTRIBUTE, at)?);
    Ok(())
}

/// The message id that a handler chose for its event, if the request has one. Without a topic there is no key that could
/// have made it.
fn token(headers: &HeaderMap, key: Option<&TopicKey>) -> Result<Option<Token>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let verified = key.and_then(|key| key.verify(value.to_str().ok()?));
    match verified {
        Some(token) if values.next().is_none() => Ok(Some(token)),
        _ => Err(Problem::message_id_not_allowed()),
    }
}
