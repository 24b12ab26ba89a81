//! `tidegate console`: pages on loopback that show a cluster with the user's own rights (docs/console.md).
//!
//! - [`guard`]: who may ask.  [`serving`]: connections, and their bounds.
//! - [`reading`]: what pages read.  [`refusal`]: why a page cannot be shown.
//! - [`layout`]: what all pages have.  [`values`]: how facts are shown.
//! - [`namespaces`], [`topics`], [`events`], [`handlers`], [`letters`]: the pages.

mod events;
mod guard;
mod handlers;
mod layout;
mod letters;
mod namespaces;
mod reading;
mod refusal;
mod serving;
mod topics;
mod values;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use kube::Client;

use crate::failure::Failure;
use crate::stored::{self, Location, Place};
use crate::terminal;
use guard::Guard;
use layout::{ICON_PATH, STYLE_PATH};
use reading::Cluster;
use refusal::Refusal;
use serving::Loopback;

/// `tidegate console`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Port on this machine's loopback. Default: a free one.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Serve the pages on http://127.0.0.1:PORT, for a browser that does not find names under localhost. Browsers send the
    /// cookie of these pages to every server on 127.0.0.1 that they visit.
    #[arg(long)]
    pub by_address: bool,
    /// Where to begin.
    #[command(flatten)]
    pub place: Place,
}

/// Serves the pages until it is interrupted.
///
/// # Errors
/// There is no kubeconfig, or the port is in use.
pub async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = stored::Api::connect(&arguments.place).await?;
    let mut console = Console::bind(arguments.port, api.client().clone(), api.location().clone()).await?;
    if arguments.by_address {
        console.guard = Guard::by_address(console.loopback.port().map_err(Failure::failed)?)?;
    }
    terminal::print(&format!("open {} (Ctrl-C ends it)", console.url()))?;
    tokio::select! {
        () = console.serve() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Failure::failed),
    }
}

/// The pages, on a port.
pub struct Console {
    loopback: Loopback,
    guard: Guard,
    router: Router,
}

impl Console {
    /// Takes a port of loopback; 0: a free one. `location`: where a user begins, and how commands that a page suggests name the cluster.
    ///
    /// # Errors
    /// The port is in use.
    pub async fn bind(port: u16, client: Client, location: Location) -> Result<Self, Failure> {
        let loopback = Loopback::bind(port).await.map_err(|error| {
            Failure::Failed(format!("port {port}: {error}: end what listens there, or choose another by --port"))
        })?;
        let guard = Guard::new(loopback.port().map_err(Failure::failed)?)?;
        Ok(Self { loopback, guard, router: router(Cluster::new(client, location)) })
    }

    /// The address to open, with its token.
    pub fn url(&self) -> String {
        self.guard.url()
    }

    /// Serves the pages, for as long as it is polled.
    pub async fn serve(self) {
        let router = self.router.layer(from_fn_with_state(self.guard, guard::check));
        serving::serve(self.loopback, router).await;
    }
}

fn router(cluster: Cluster) -> Router {
    Router::new()
        .route("/", get(namespaces::page))
        .route("/ns/{namespace}/topics", get(topics::list))
        .route("/ns/{namespace}/topics/{topic}", get(topics::page))
        .route("/ns/{namespace}/topics/{topic}/events", get(events::list))
        .route("/ns/{namespace}/topics/{topic}/events/{sequence}", get(events::page))
        .route("/ns/{namespace}/handlers", get(handlers::list))
        .route("/ns/{namespace}/handlers/{handler}", get(handlers::page))
        .route("/ns/{namespace}/handlers/{handler}/letters", get(letters::list))
        .route("/ns/{namespace}/handlers/{handler}/letters/{sequence}", get(letters::page))
        .route(STYLE_PATH, get(async || ([(CONTENT_TYPE, "text/css")], include_str!("style.css"))))
        .route(ICON_PATH, get(async || ([(CONTENT_TYPE, "image/svg+xml")], include_str!("icon.svg"))))
        .fallback(async || {
            Refusal::new(StatusCode::NOT_FOUND, "The console has no such page: begin with the namespaces.")
        })
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "The console does nothing of this kind: begin with the namespaces.",
            )
        })
        .with_state(Arc::new(cluster))
}

/// What an address has after its `?`.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first parameter of this name that says something.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

/// The sequence that an address names.
fn sequence(text: &str) -> Result<u64, Refusal> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "A sequence is a number from 1 on: correct it."))
}
