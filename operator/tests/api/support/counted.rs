//! A client that counts its requests.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tower::Service;
use tower::layer::layer_fn;

use super::server;

/// The requests so far: method, path and query.
#[derive(Clone, Default)]
pub struct Count(Arc<Mutex<Vec<(Method, String)>>>);

impl Count {
    /// A client whose requests are counted.
    pub fn client(&self) -> Client {
        let count = self.clone();
        let layer = layer_fn(move |inner| Counted { inner, count: count.clone() });
        ClientBuilder::try_from(server::config()).expect("client").with_layer(&layer).build()
    }

    /// Takes the requests since the last time.
    pub fn take(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut *self.0.lock().expect("lock"))
    }
}

/// Those that change something.
pub fn writes(requests: &[(Method, String)]) -> Vec<&(Method, String)> {
    requests.iter().filter(|(method, _)| *method != Method::GET).collect()
}

struct Counted<S> {
    inner: S,
    count: Count,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let line = (request.method().clone(), request.uri().to_string());
        self.count.0.lock().expect("lock").push(line);
        self.inner.call(request)
    }
}
