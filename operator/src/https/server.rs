//! The operator's HTTPS: few connections. The API server is the only client that has reason to come, but whoever reaches
//! the port could. What is asked and how much of it at a time is bounded by each of the routers.

use std::future::{Ready, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::AddExtension;
use axum::{Extension, Router};
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Layer as _;

/// Connections at a time; the API server needs a few.
const CONNECTIONS: usize = 64;
/// How long a connection may be open without a request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Serves until it is dropped.
///
/// # Errors
/// The port is taken.
pub async fn serve(config: RustlsConfig, port: u16, router: Router) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let acceptor = RustlsAcceptor::new(config).acceptor(Bounded { slots: Arc::new(Semaphore::new(CONNECTIONS)) });
    let end = Closing(Handle::new());
    axum_server::bind(address)
        .acceptor(acceptor)
        .first_request_timeout(FIRST_REQUEST_TIMEOUT)
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
