//! The aggregated API `subresources.tidegate.io/v1alpha1`: stored events of topics, and dead letters of handlers, for those
//! who may read them.
//!
//! The API server authenticates its user and passes the request on; its front proxy's certificate is what makes the headers
//! true that name the user ([`crate::https::front_proxy`]). Each call is a SubjectAccessReview ([`access`]), a look at the
//! resource that says where the data is ([`locate`]), and reads of the broker within bounds ([`data`]). Every operator pod
//! answers with sessions of its own, which are made on demand and end soon after, so that no call needs a leader.

mod access;
mod answer;
mod calls;
pub mod data;
mod discovery;
mod locate;
mod redrive;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use kube::Client;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use crate::https::front_proxy::FrontProxy;
use crate::sessions::brokers::Brokers;
use access::Access;
use locate::Locator;

/// The API's group.
pub const GROUP: &str = "subresources.tidegate.io";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// The APIService that sends its calls here.
pub const API_SERVICE: &str = "v1alpha1.subresources.tidegate.io";

/// Calls that read a broker at a time. Each holds a page, and with it the one event that may be larger than a page.
const CALLS: usize = 4;
/// Redrives at a time. They are long, so they take no turn of a read.
const REDRIVES: usize = 2;
/// Streams of a watch at a time.
const WATCHES: usize = 16;
/// How often sessions are looked at.
const IDLE_CHECK: Duration = Duration::from_secs(10);

/// What calls are answered with.
#[derive(Clone)]
struct Calls {
    access: Access,
    locator: Arc<Locator>,
    reads: Arc<Semaphore>,
    redrives: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

/// The paths of the API.
pub(crate) fn router(
    client: Client,
    operator_namespace: String,
    brokers: Arc<Brokers>,
    front_proxy: watch::Receiver<Option<Arc<FrontProxy>>>,
) -> Router {
    let calls = Calls {
        access: Access::new(client.clone()),
        locator: Arc::new(Locator::new(client, operator_namespace, brokers)),
        reads: Arc::new(Semaphore::new(CALLS)),
        redrives: Arc::new(Semaphore::new(REDRIVES)),
        watches: Arc::new(Semaphore::new(WATCHES)),
    };
    Router::new()
        .route("/apis/subresources.tidegate.io", get(discovery::group))
        .route("/apis/subresources.tidegate.io/v1alpha1", get(discovery::resources))
        .route(&path("eventtopics", "events"), get(calls::events))
        .route(&path("eventhandlers", "deadletters"), get(calls::dead_letters).delete(calls::drop_dead_letters))
        .route(&format!("{}/{{sequence}}", path("eventhandlers", "deadletters")), get(calls::dead_letter))
        .route(&path("eventhandlers", "redrive"), post(redrive::redrive))
        .layer(middleware::from_fn_with_state(front_proxy, access::authenticate))
        .with_state(calls)
}

fn path(resource: &str, subresource: &str) -> String {
    format!("/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{resource}/{{name}}/{subresource}")
}

/// Ends sessions that no call has used for a while.
pub(crate) async fn end_idle_sessions(brokers: &Brokers) -> Infallible {
    loop {
        sleep(IDLE_CHECK).await;
        brokers.end_idle();
    }
}
