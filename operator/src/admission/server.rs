//! What the webhook answers: small requests, short answers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use kube::api::{Api, DynamicObject};
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use kube::{Client, ResourceExt as _};
use tidegate_broker_admin::Authority;
use tidegate_crds::topic::Routing;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::circles;
use super::judge::{Judged, in_vain_on_direct, is_new, judge, refusal};
use crate::args::Args;
use crate::context::Owner;
use crate::handler::{self, reference};
use crate::kubernetes::apply::dry_run;
use crate::reconcile::error::Error;

/// Requests at a time, each of which is in memory.
const REQUESTS: usize = 4;
/// A request carries the object as it was and as it shall be, of 3 MiB at most together (etcd's limit is half of that).
const REQUEST_BYTES: usize = 4 << 20;
/// All of a request. Below the webhook's own limit in the chart.
const REQUEST_TIME: Duration = Duration::from_secs(4);
/// Looking for a handler's topic, for a warning.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Asking the API server about a handler's Deployment. Without an answer the handler is taken, and a condition says
/// later what was wrong with it.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(2);

/// What requests are answered with.
#[derive(Clone)]
struct Judge {
    client: Client,
    args: Arc<Args>,
    /// In place of a broker's, in what is never made.
    authority: Option<Arc<Authority>>,
}

/// The paths of the webhook.
pub fn router(client: Client, args: Args) -> Router {
    let authority = Authority::generate("dry-run", OffsetDateTime::now_utc()).ok().map(Arc::new);
    let judge = Judge { client, args: Arc::new(args), authority };
    let requests = Arc::new(Semaphore::new(REQUESTS));
    Router::new()
        .route("/eventbrokers", post(answered::<EventBroker>))
        .route("/eventtopics", post(answered::<EventTopic>))
        .route("/eventhandlers", post(eventhandlers))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES))
        .layer(middleware::from_fn_with_state(requests, bounded))
        .with_state(judge)
}

async fn answered<K: Judged + Clone>(Json(review): Json<AdmissionReview<K>>) -> Json<AdmissionReview<DynamicObject>> {
    answer(&review)
}

async fn eventhandlers(
    State(judge): State<Judge>,
    Json(review): Json<AdmissionReview<EventHandler>>,
) -> Json<AdmissionReview<DynamicObject>> {
    let mut answer = answer(&review);
    let Some(request) = &review.request else { return answer };
    let (Some(response), Some(handler)) = (&mut answer.response, &request.object) else { return answer };
    if !response.allowed {
        return answer;
    }
    if is_new(handler, request.old_object.as_ref())
        && let Err(error) = judge.deployment(handler).await
    {
        *response = refusal(response.clone(), &error);
    } else {
        response.warnings = warnings(judge.client, handler).await;
    }
    answer
}

impl Judge {
    /// Whether a Deployment could be made of the handler; where that is not known in time, it could.
    async fn deployment(&self, handler: &EventHandler) -> Result<(), Error> {
        let (Some(owner), Some(authority)) = (Owner::of(handler), &self.authority) else { return Ok(()) };
        let deployment = handler::deployment(handler, &owner, authority, &self.args)?;
        match timeout(DRY_RUN_TIMEOUT, dry_run(&self.client, &owner.namespace, &deployment)).await {
            Ok(Err(error)) if error.needs_a_person() => Err(error),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a handler was taken without a dry run");
                Ok(())
            }
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

fn answer<K: Judged + Clone>(review: &AdmissionReview<K>) -> Json<AdmissionReview<DynamicObject>> {
    let response = match review.clone().try_into() {
        Ok(request) => judge::<K>(&request),
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

/// What the schema cannot see, because it is said of another resource. A topic that is not there is no reason to warn:
/// it may come.
async fn warnings(client: Client, handler: &EventHandler) -> Option<Vec<String>> {
    let circles = timeout(LOOK_TIMEOUT, circles::warnings(client.clone(), handler));
    let (in_vain, circles) = tokio::join!(in_vain(client.clone(), handler), circles);
    let circles = circles.ok().and_then(Result::ok);
    let all: Vec<String> = in_vain.into_iter().chain(circles).flatten().collect();
    (!all.is_empty()).then_some(all)
}

async fn in_vain(client: Client, handler: &EventHandler) -> Option<Vec<String>> {
    let in_vain = in_vain_on_direct(&handler.spec);
    // Of a topic of another namespace nothing is told: it may not be granted.
    if in_vain.is_empty() || reference::other_namespace(handler).is_some() {
        return None;
    }
    let topics: Api<EventTopic> = Api::namespaced(client, &handler.namespace()?);
    let topic = timeout(LOOK_TIMEOUT, topics.get_opt(&handler.spec.topic)).await.ok()?.ok()??;
    (topic.spec.routing == Routing::Direct).then_some(in_vain)
}

/// Reads and answers a few requests at a time, each in a bounded time.
async fn bounded(State(requests): State<Arc<Semaphore>>, request: Request, next: Next) -> Result<Response, StatusCode> {
    let answered = async {
        let _permit = requests.acquire().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        Ok(next.run(request).await)
    };
    timeout(REQUEST_TIME, answered).await.unwrap_or(Err(StatusCode::SERVICE_UNAVAILABLE))
}
