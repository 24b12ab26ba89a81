//! A client whose process dies at a chosen write.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use http::{Method, Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tokio::sync::Notify;
use tower::layer::layer_fn;
use tower::{BoxError, Service};

use super::{PATIENCE, server};

/// When the process dies.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// The write is not sent.
    Before,
    /// The write is done, and its answer never seen.
    After,
}

/// Counts the writes to a namespace and to the keys of its brokers, which are in the operator's, and tells when the last one that may happen has been reached.
#[derive(Clone)]
pub struct Interruption {
    namespace: String,
    keys: String,
    at: usize,
    moment: Moment,
    writes: Arc<AtomicUsize>,
    reached: Arc<Notify>,
}

impl Interruption {
    /// At this write (counted from 1).
    pub fn new(namespace: &str, at: usize, moment: Moment) -> Self {
        Self {
            namespace: format!("/namespaces/{namespace}/"),
            keys: format!("/secrets/broker.{namespace}."),
            at,
            moment,
            writes: Arc::default(),
            reached: Arc::default(),
        }
    }

    /// The same, counting only writes to this path.
    pub fn of_path(path: String, at: usize, moment: Moment) -> Self {
        Self { namespace: path.clone(), keys: path, ..Self::new("", at, moment) }
    }

    /// Counts only.
    pub fn never(namespace: &str) -> Self {
        Self::new(namespace, usize::MAX, Moment::Before)
    }

    /// Requests to write so far, whether or not they changed anything.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// A client that this happens to.
    pub fn client(&self) -> Client {
        let interruption = self.clone();
        let layer = layer_fn(move |inner| Interrupted { inner, interruption: interruption.clone() });
        ClientBuilder::try_from(server::config()).expect("client").with_layer(&layer).build()
    }

    /// Waits for the moment; false if it does not come.
    pub async fn reached(&self) -> bool {
        tokio::time::timeout(PATIENCE, self.reached.notified()).await.is_ok()
    }
}

struct Interrupted<S> {
    inner: S,
    interruption: Interruption,
}

impl<S, B> Service<Request<Body>> for Interrupted<S>
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
        let Interruption { namespace, keys, at, moment, writes, reached } = self.interruption.clone();
        let path = request.uri().path();
        if request.method() == Method::GET || !(path.contains(&namespace) || path.contains(&keys)) {
            return self.inner.call(request).boxed();
        }
        let number = writes.fetch_add(1, Ordering::SeqCst) + 1;
        match (number.cmp(&at), moment) {
            (std::cmp::Ordering::Less, _) => self.inner.call(request).boxed(),
            (std::cmp::Ordering::Equal, Moment::After) => {
                let sent = self.inner.call(request);
                async move {
                    let _ = sent.await;
                    reached.notify_one();
                    pending().await
                }
                .boxed()
            }
            _ => {
                reached.notify_one();
                pending().boxed()
            }
        }
    }
}
