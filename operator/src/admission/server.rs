//! The webhook's HTTPS: few connections, small requests, short answers. The API server is the only client that has
//! reason to come, but whoever reaches the port could.

use std::future::{Ready, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, AddExtension, Next};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use kube::api::{Api, DynamicObject};
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use kube::{Client, ResourceExt as _};
use tidegate_broker_admin::Authority;
use tidegate_crds::topic::Routing;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::Layer as _;

use super::circles;
use super::judge::{Judged, in_vain_on_direct, is_new, judge, refusal};
use crate::args::Args;
use crate::context::Owner;
use crate::handler::{self, reference};
use crate::kubernetes::apply::dry_run;
use crate::reconcile::error::Error;

/// Connections at a time; the API server needs a few.
const CONNECTIONS: usize = 64;
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

/// Serves until it is dropped.
///
/// # Errors
/// The port is taken.
pub async fn serve(config: RustlsConfig, client: Client, args: Args) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.webhook_port));
    let authority = Authority::generate("dry-run", OffsetDateTime::now_utc()).ok().map(Arc::new);
    let judge = Judge { client, args: Arc::new(args), authority };
    let acceptor = RustlsAcceptor::new(config).acceptor(Bounded { slots: Arc::new(Semaphore::new(CONNECTIONS)) });
    let requests = Arc::new(Semaphore::new(REQUESTS));
    let router = Router::new()
        .route("/eventbrokers", post(answered::<EventBroker>))
        .route("/eventtopics", post(answered::<EventTopic>))
        .route("/eventhandlers", post(eventhandlers))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES))
        .layer(middleware::from_fn_with_state(requests, bounded))
        .with_state(judge);
    let end = Closing(Handle::new());
    axum_server::bind(address)
        .acceptor(acceptor)
        .first_request_timeout(REQUEST_TIME)
        .handle(end.0.clone())
        .serve(router.into_make_service())
        .await
}

/// Dropped, it closes the connections, each of which has a task of its own.
struct Closing(Handle<SocketAddr>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.shutdown();
    }
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

/// Takes a connection while there are few. Its slot goes with it, because its service does.
#[derive(Clone)]
struct Bounded {
    slots: Arc<Semaphore>,
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = TcpStream;
    type Service = AddExtension<S, Arc<OwnedSemaphorePermit>>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(io::Error::other);
        ready(slot.map(|slot| (stream, Extension(Arc::new(slot)).layer(service))))
    }
}
