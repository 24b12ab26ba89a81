//! What publishers can ask for: `POST /`, and whether they may (`OPTIONS /`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tidegate_broker_client::message_id::{HEADER, Token, TopicKey};
use tidegate_cloudevents::http as binding;

use crate::connection::Answers;
use crate::intake::Intake;
use crate::message::Origin;
use crate::outcome::Receipt;
use crate::problem::Problem;
use crate::share::Share;
use crate::{body, trace, webhook};

/// The event's sequence in the stream; of a batch, the highest.
const SEQUENCE: HeaderName = HeaderName::from_static("tidegate-sequence");
/// `true` if all that was sent was stored before.
const DUPLICATE: HeaderName = HeaderName::from_static("tidegate-duplicate");
/// How many events of a batch were stored before, unless none was.
const DUPLICATES: HeaderName = HeaderName::from_static("tidegate-duplicates");

/// The HTTPS listener. Without a framework: what one does for a request costs more than a publish.
#[derive(Clone)]
pub struct Routes(pub Arc<Intake>);

impl Answers for Routes {
    async fn answer(&self, request: Request<Incoming>, share: &Arc<Share>) -> Response<Full<Bytes>> {
        let Self(intake) = self;
        let started = Instant::now();
        let method = request.method().clone();
        let outcome = match request.uri().path() {
            "/" if method == Method::POST => publish(intake, request, share).await.map(|receipt| accepted(&receipt)),
            "/" if method == Method::OPTIONS => webhook::answer(request.headers()),
            "/" => Err(Problem::method_not_allowed()),
            _ => Err(Problem::not_found()),
        };
        let response = outcome.unwrap_or_else(Problem::into_response);
        intake.metrics.answered(&method, response.status(), started.elapsed());
        response
    }
}

/// 202, with what the broker said.
fn accepted(receipt: &Receipt) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    if receipt.sequence > 0 {
        headers.insert(SEQUENCE, receipt.sequence.into());
    }
    if receipt.repeats_all() {
        headers.insert(DUPLICATE, HeaderValue::from_static("true"));
    }
    if receipt.events > 1 && receipt.duplicates > 0 {
        headers.insert(DUPLICATES, receipt.duplicates.into());
    }
    response
}

/// Takes the events of a request: a receipt when the broker has acknowledged all of them.
async fn publish(intake: &Intake, request: Request<Incoming>, share: &Arc<Share>) -> Result<Receipt, Problem> {
    let (head, body) = request.into_parts();
    let mut admitted = intake.admission.admit(share, body::size(&head.headers))?;
    let token = token(&head.headers, &intake.message_ids)?;
    let limit = intake.admission.request_limit();
    let body = body::read(body, &head.headers, limit, &mut admitted.room, &intake.limits).await?;
    let (mode, events) = binding::decode(&head.headers, body)?;
    if token.is_some() && mode == binding::Mode::Batched {
        return Err(Problem::named_batch());
    }
    tracing::debug!(mode = mode.name(), events = events.len(), "request decoded");
    let origin = token.as_ref().map_or(Origin::Anonymous, Origin::Handler);
    intake.publish(&events, origin, &trace::of_request(&head.headers)).await
}

/// The message id that a handler chose for its event, if the request has one.
fn token(headers: &HeaderMap, key: &TopicKey) -> Result<Option<Token>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let verified = value.to_str().ok().and_then(|value| key.verify(value));
    match verified {
        Some(token) if values.next().is_none() => Ok(Some(token)),
        _ => Err(Problem::message_id_not_allowed()),
    }
}
