//! What our programs are compared with: the same work, done straight with the client libraries.
//!
//! A sidecar has one thread, so each of these has one, too.

use std::sync::Arc;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::Stream;
use async_nats::jetstream::message::Message;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;

use crate::broker::Operator;
use crate::pace::Pace;
use crate::{CONCURRENCY, events};

/// Posts requests, on warm connections.
pub type Poster = Client<HttpConnector, Full<Bytes>>;

/// Does something on a thread with a runtime of its own.
///
/// # Errors
/// Those of the work.
pub async fn on_one_thread<T, F>(work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("raw".to_owned()).spawn(move || {
        let _ = done.send(runtime.block_on(work()));
    })?;
    result.await.context("the thread ended")?
}

/// Pulls and acknowledges so many events.
///
/// # Errors
/// The broker fails.
pub async fn pull(operator: Operator, consumer: &str, count: u64) -> anyhow::Result<f64> {
    let pace = Pace::of(count);
    let (client, mut messages) = open(&operator, consumer).await?;
    for _ in 0..count {
        let message = messages.next().await.context("the pull ended")??;
        acknowledge(&message).await?;
        pace.step();
    }
    client.flush().await?;
    pace.rate()
}

/// Posts so many events.
///
/// # Errors
/// A request fails.
pub async fn post_all(uri: Uri, count: u64) -> anyhow::Result<()> {
    let poster = poster(usize::from(CONCURRENCY));
    let requests = events::numbers(count).map(|number| events::request(number, &uri));
    let requests: Vec<_> = requests.collect::<anyhow::Result<_>>()?;
    let posts = stream::iter(requests).map(|request| post(&poster, request));
    posts.buffer_unordered(usize::from(CONCURRENCY)).try_for_each(|()| async { Ok(()) }).await
}

/// Pulls, posts and acknowledges so many events, many at a time: a sidecar without anything that makes it one.
///
/// # Errors
/// Broker or handler fail.
pub async fn pull_and_post(operator: Operator, consumer: &str, uri: Uri, count: usize) -> anyhow::Result<()> {
    let poster = poster(usize::from(CONCURRENCY));
    let (client, messages) = open(&operator, consumer).await?;
    let deliver = async |message: Message| {
        post(&poster, request(&message, &uri)?).await?;
        acknowledge(&message).await
    };
    let messages = messages.take(count).map_err(anyhow::Error::from);
    messages.try_for_each_concurrent(usize::from(CONCURRENCY), deliver).await?;
    client.flush().await?;
    Ok(())
}

/// As one might begin: one event at a time, on a new connection, its acknowledgement confirmed.
///
/// # Errors
/// Broker or handler fail.
pub async fn naive(operator: Operator, consumer: &str, uri: Uri, count: u64) -> anyhow::Result<f64> {
    let pace = Pace::of(count);
    let (_client, consumer) = operator.consumer(consumer).await?;
    for _ in 0..count {
        let mut batch = consumer.fetch().max_messages(1).messages().await?;
        let message = batch.next().await.context("no event")?.map_err(anyhow::Error::from_boxed)?;
        post(&poster(0), request(&message, &uri)?).await?;
        message.double_ack().await.map_err(anyhow::Error::from_boxed)?;
        pace.step();
    }
    pace.rate()
}

/// Opens a continuous pull of as many events as may be in flight.
///
/// # Errors
/// The broker fails.
pub async fn open(operator: &Operator, consumer: &str) -> anyhow::Result<(async_nats::Client, Stream)> {
    let (client, consumer) = operator.consumer(consumer).await?;
    let messages = consumer.stream().max_messages_per_batch(usize::from(CONCURRENCY)).messages().await?;
    Ok((client, messages))
}

/// Acknowledges without waiting.
///
/// # Errors
/// The connection is closed.
pub async fn acknowledge(message: &Message) -> anyhow::Result<()> {
    message.ack().await.map_err(anyhow::Error::from_boxed)
}

/// A client that keeps so many idle connections.
pub fn poster(idle: usize) -> Poster {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(idle).build(connector)
}

/// Posts, and reads the answer to its end.
///
/// # Errors
/// It is not a success.
pub async fn post(poster: &Poster, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
    let response = poster.request(request).await?;
    anyhow::ensure!(response.status().is_success(), "the handler says {}", response.status());
    response.into_body().collect().await?;
    Ok(())
}

/// The stored headers and payload as a request, as they are.
fn request(message: &Message, uri: &Uri) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::post(uri.clone());
    for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
        for value in values {
            request = request.header(AsRef::<str>::as_ref(name), value.as_str());
        }
    }
    Ok(request.body(Full::new(message.payload.clone()))?)
}

/// Counts at the handler.
pub fn counting(pace: &Arc<Pace>) -> impl Fn(u64) -> std::time::Duration + Send + Sync + 'static {
    let pace = pace.clone();
    move |_| {
        pace.step();
        std::time::Duration::ZERO
    }
}
