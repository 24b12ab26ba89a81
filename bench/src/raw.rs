//! What our programs are compared with: the same work, done straight with the client libraries on one thread, with the
//! rights of the same kind of account.

use std::path::PathBuf;

use anyhow::Context as _;
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tidegate_broker_client::{identity, layout, peer};
use tokio::sync::oneshot;

/// Nanoseconds that a pull request stays open.
const EXPIRES: u64 = 60_000_000_000;

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

/// Connects with an identity.
///
/// # Errors
/// The broker is not there, or does not let it in.
pub async fn client(servers: &[String], folder: PathBuf) -> anyhow::Result<Client> {
    Ok(peer::connect("bench", servers, identity::folder(folder)).await?)
}

/// A handler's pull: its account may ask for the next events of its consumer, and nothing about it.
pub struct Pull {
    client: Client,
    subscriber: Subscriber,
    subject: String,
    inbox: String,
    window: usize,
    open: usize,
}

impl Pull {
    /// Asks for as many events as may be in flight.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn open(client: Client, consumer: &str, window: usize) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await?;
        let mut pull = Self { client, subscriber, subject: layout::pull_subject(consumer), inbox, window, open: 0 };
        pull.ask().await?;
        Ok(pull)
    }

    /// The next event. When half of what was asked for has come, the other half is asked for again.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            let message = self.subscriber.next().await.context("the pull ended")?;
            // A status has nothing to acknowledge.
            if message.reply.is_none() {
                continue;
            }
            self.open -= 1;
            if self.open <= self.window / 2 {
                self.ask().await?;
            }
            return Ok(message);
        }
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        let batch = self.window - self.open;
        let request = format!(r#"{{"batch":{batch},"expires":{EXPIRES}}}"#);
        self.client.publish_with_reply(self.subject.clone(), self.inbox.clone(), request.into()).await?;
        self.open = self.window;
        Ok(())
    }
}

/// Pulls, posts and acknowledges, `window` events at a time: a sidecar without anything that makes it one.
///
/// # Errors
/// Broker or handler fail.
pub async fn deliver(client: Client, consumer: &str, uri: Uri, window: usize) -> anyhow::Result<()> {
    let poster = poster(window);
    let pull = Pull::open(client.clone(), consumer, window).await?;
    let messages = stream::try_unfold(pull, async |mut pull| Ok(Some((pull.next().await?, pull))));
    let deliver = async |message: Message| {
        post(&poster, request(&message, &uri)?).await?;
        acknowledge(&client, message).await
    };
    messages.try_for_each_concurrent(window, deliver).await
}

/// Acknowledges without waiting.
///
/// # Errors
/// The connection is closed.
pub async fn acknowledge(client: &Client, message: Message) -> anyhow::Result<()> {
    let reply = message.reply.context("a message that asks for nothing")?;
    Ok(client.publish(reply, Bytes::from_static(b"+ACK")).await?)
}

type Poster = HttpClient<HttpConnector, Full<Bytes>>;

fn poster(idle: usize) -> Poster {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(idle).build(connector)
}

async fn post(poster: &Poster, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
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
