//! What publishers can ask for: `POST /`, and nothing else.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tidegate_broker_client::message_id::{HEADER, Token, TopicKey};
use tidegate_cloudevents::http as binding;

use crate::connection::Answers;
use crate::intake::Intake;
use crate::message::Origin;
use crate::problem::Problem;
use crate::{body, trace};

/// The HTTPS listener. Without a framework: what one does for a request costs more than a publish.
#[derive(Clone)]
pub struct Routes(pub Arc<Intake>);

impl Answers for Routes {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Self(intake) = self;
        let started = Instant::now();
        let method = request.method().clone();
        let outcome = match request.uri().path() {
            "/" if method == Method::POST => publish(intake, request).await,
            "/" => Err(Problem::method_not_allowed()),
            _ => Err(Problem::not_found()),
        };
        let mut response = Response::default();
        match outcome {
            Ok(()) => *response.status_mut() = StatusCode::ACCEPTED,
            Err(problem) => response = problem.into_response(),
        }
        intake.metrics.answered(&method, response.status(), started.elapsed());
        response
    }
}

/// Takes the events of a request: 202 when the broker has acknowledged all of them.
async fn publish(intake: &Intake, request: Request<Incoming>) -> Result<(), Problem> {
    let (head, body) = request.into_parts();
    let _admitted = intake.admission.admit(body.size_hint().exact())?;
    let token = token(&head.headers, &intake.message_ids)?;
    let body = body::read(body, intake.admission.request_limit(), intake.limits.body).await?;
    let (mode, events) = binding::decode(&head.headers, body)?;
    if token.is_some() && mode == binding::Mode::Batched {
        return Err(Problem::named_batch());
    }
    tracing::debug!(mode = mode.name(), events = events.len(), "request");
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
