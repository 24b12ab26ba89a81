//! What publishers can ask for: `POST /`, and nothing else.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;
use tidegate_cloudevents::http as binding;

use crate::admission::Admission;
use crate::config::{Limits, request_limit};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::publish::Publisher;
use crate::{body, trace};

/// What answering a request takes.
pub struct Publishing {
    publisher: Publisher,
    admission: Admission,
    limits: Limits,
    max_event_size: usize,
}

impl Publishing {
    /// With this publisher, for events of at most this many bytes.
    pub fn new(publisher: Publisher, limits: Limits, max_event_size: usize) -> Self {
        let admission = Admission::new(&limits, request_limit(max_event_size));
        Self { publisher, admission, limits, max_event_size }
    }
}

/// The routes of the HTTPS listener.
pub fn router(publishing: Arc<Publishing>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/", post(publish))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .fallback(async || Problem::not_found())
        .with_state(publishing)
        .layer(from_fn_with_state(metrics, measure))
}

/// Takes the events of a request: 202 when the broker has acknowledged all of them.
async fn publish(State(state): State<Arc<Publishing>>, request: Request) -> Result<StatusCode, Problem> {
    let (head, body) = request.into_parts();
    let _admitted = state.admission.admit(body.size_hint().exact())?;
    let body = body::read(body, state.admission.request_limit(), state.limits.body).await?;
    let (mode, events) = binding::decode(&head.headers, body)?;
    if let Some(event) = events.iter().find(|event| event.size() > state.max_event_size) {
        return Err(Problem::event_too_large(event.id(), event.size(), state.max_event_size));
    }
    tracing::debug!(mode = mode.name(), events = events.len(), "request");
    match state.publisher.publish_all(&events, &trace::of_request(&head.headers)).await {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(incomplete) => Err(Problem::not_stored(incomplete.failure, incomplete.stored, events.len())),
    }
}

async fn measure(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let response = next.run(request).await;
    metrics.answered(&method, response.status(), started.elapsed());
    response
}
