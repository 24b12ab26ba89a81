//! A client before whose first request of a kind somebody else does something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tower::layer::layer_fn;
use tower::{BoxError, Service};

use super::server;

/// What somebody else does.
type Deed = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A client whose first request of this method, to a path with this in it, comes after a deed of somebody else's.
pub fn before_first(
    method: Method,
    path: String,
    deed: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> Client {
    let (deed, is_done): (Deed, _) = (Arc::new(deed), Arc::new(AtomicBool::new(false)));
    let meant = (method, path);
    let layer = layer_fn(move |inner| Meddled {
        inner,
        meant: meant.clone(),
        deed: Arc::clone(&deed),
        is_done: Arc::clone(&is_done),
    });
    ClientBuilder::try_from(server::config()).expect("client").with_layer(&layer).build()
}

struct Meddled<S> {
    inner: S,
    meant: (Method, String),
    deed: Deed,
    is_done: Arc<AtomicBool>,
}

impl<S, B> Service<Request<Body>> for Meddled<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (method, path) = &self.meant;
        let is_meant = request.method() == method && request.uri().path().contains(path);
        // It is sent when it is polled.
        let sent = self.inner.call(request);
        if !is_meant || self.is_done.swap(true, Ordering::SeqCst) {
            return sent.boxed();
        }
        let deed = (self.deed)();
        async move {
            deed.await;
            sent.await
        }
        .boxed()
    }
}
