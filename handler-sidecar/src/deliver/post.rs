//! One attempt: the event as an HTTP request to the handler's container, on a warm connection.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use tidegate_broker_client::contract::{Delivery, Routing};
use tidegate_wire::http::{Client, IdleLimits, RequestPrefix, SendError};
use tokio::time::Instant;

use crate::deliver::answer::{self, Answered};
use crate::deliver::loopback::Loopback;
use crate::event::request::EncodedRequest;
use crate::ops::budget::ByteBudget;
use crate::settle::outcome::Answer;

/// Common HTTP servers close idle connections after 2 s (gunicorn) or 5 s (Node.js, uvicorn): we close first,
/// or a request would now and then meet a connection that is just being closed.
const MAX_IDLE: Duration = Duration::from_millis(1500);
/// A connection that is closed without an answer within this time was being closed as the request went out; on
/// loopback that shows within a round trip. Later, the request was in work.
const MAX_RACE: Duration = Duration::from_secs(1);
const AGENT: HeaderValue = HeaderValue::from_static(concat!("tidegate-sidecar/", env!("CARGO_PKG_VERSION")));

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The request went out.
    Answered(Answered),
    /// No connection, so nothing was sent: the handler is not up. No attempt was used.
    Unreachable(String),
}

/// The handler's container.
#[derive(Clone, Debug)]
pub struct Handler {
    client: Client<Loopback>,
    /// How long an answer is waited for.
    limit: Duration,
    url: Arc<str>,
    budget: ByteBudget,
}

impl Handler {
    /// The container that listens as `delivery` says. To be called on a runtime.
    ///
    /// An event of a topic that stores them may be posted once more if the container seems to have closed the
    /// connection before it saw the request; one of a Direct topic is posted once.
    ///
    /// # Errors
    /// The path is not part of a URI.
    pub fn new(delivery: &Delivery, routing: Routing, budget: ByteBudget) -> Result<Self, http::Error> {
        let path = PathAndQuery::try_from(delivery.path.as_str())?;
        let host = format!("127.0.0.1:{}", delivery.port);
        let prefix = RequestPrefix::post(&path, &HeaderValue::try_from(host.as_str())?, &AGENT);
        let max_race = if routing == Routing::Direct { Duration::ZERO } else { MAX_RACE };
        let limits = IdleLimits { max_connections: usize::from(delivery.concurrency), max_age: MAX_IDLE, max_race };
        Ok(Self {
            client: Client::new(Loopback::from(delivery), prefix, limits),
            limit: delivery.timeout,
            url: format!("http://{host}{path}").into(),
            budget,
        })
    }

    /// What answers may take.
    pub fn budget(&self) -> &ByteBudget {
        &self.budget
    }

    /// Whether a request would go out at once.
    pub fn is_connected(&self) -> bool {
        self.client.is_warm()
    }

    /// Posts what `encode` makes, and waits for the answer as long as an attempt may take. `encode` is asked again where
    /// the request goes out once more.
    ///
    /// Of a 2xx the content is kept if it is `wanted` ([`answer::read`]). Redirects are not followed.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, for each event in flight")]
    pub fn post<'a, 'e>(
        &'a self,
        encode: &'a mut (impl FnMut() -> Result<EncodedRequest<'e>, String> + Send),
        wanted: Option<usize>,
    ) -> impl Future<Output = Attempt> {
        async move {
            let end = Instant::now() + self.limit;
            let response = match self.client.send(encode, end).await {
                Ok(response) => response,
                Err(error) => return self.unanswered(error),
            };
            Attempt::Answered(answer::read(response, end, wanted, &self.budget).await)
        }
    }

    fn unanswered(&self, error: SendError<String>) -> Attempt {
        let limit = self.limit;
        match error {
            SendError::Unreachable(why) => Attempt::Unreachable(why),
            SendError::ConnectTimedOut => {
                Attempt::Unreachable(format!("no connection to {} within {limit:?}", self.url))
            }
            SendError::TimedOut => Attempt::Answered(Answered::without_content(Answer::Timeout(limit))),
            error => Attempt::Answered(Answered::without_content(Answer::Broken(error.to_string()))),
        }
    }

    /// Where events are posted to.
    pub fn url(&self) -> String {
        self.url.to_string()
    }
}

/// An error with what caused it, in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use tidegate_broker_client::contract::{Format, OnExhausted, Order, PortSource, Retry};
    use tidegate_broker_client::statuses::StatusRules;
    use tidegate_test_broker::free_port;
    use tidegate_wire::http::HeaderLines;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::event::request;

    const LONG: Duration = Duration::from_secs(5);

    fn handler(port: u16, timeout: Duration) -> Handler {
        let retry = Retry {
            max_attempts: 1,
            initial: LONG,
            max: LONG,
            factor: 1.0,
            jitter: 0.0,
            statuses: StatusRules::default(),
        };
        let delivery = Delivery {
            port,
            port_source: PortSource::Setting,
            path: "/".into(),
            format: Format::Binary,
            order: Order::None,
            concurrency: 1,
            rate: None,
            timeout,
            retry,
            on_exhausted: OnExhausted::DeadLetter,
            expiry: None,
        };
        Handler::new(&delivery, Routing::Queued, ByteBudget::default()).unwrap()
    }

    async fn listen() -> (TcpListener, Handler) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, handler(port, LONG))
    }

    type Encode = fn() -> Result<EncodedRequest<'static>, String>;

    fn encode() -> Result<EncodedRequest<'static>, String> {
        Ok(EncodedRequest { lines: HeaderLines::default(), body: request::Body::Own(Bytes::from_static(b"data")) })
    }

    async fn post(handler: &Handler) -> Attempt {
        handler.post(&mut (encode as Encode), None).await
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream
    }

    fn size_of<F: Future>(_: impl Fn(&'static Handler, &'static mut Encode, Option<usize>) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// There are up to thousands of them: what does not happen to most requests is boxed.
    #[test]
    fn a_request_in_flight_is_small() {
        let size = size_of(Handler::post);
        assert!(size <= 320, "{size} bytes");
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable() {
        let handler = handler(free_port(), LONG);
        assert!(
            matches!(post(&handler).await, Attempt::Unreachable(why) if why.contains("nothing listens on 127.0.0.1"))
        );
    }

    /// The kernel holds no more connections for a program that accepts none: nothing was sent to it.
    #[tokio::test]
    async fn a_handler_that_accepts_nothing_is_unreachable() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            held.push(stream.unwrap());
        }
        let attempt = post(&handler(address.port(), Duration::from_millis(100))).await;
        assert!(
            matches!(&attempt, Attempt::Unreachable(why) if why.contains("no connection to http://")),
            "{attempt:?}"
        );
    }

    #[tokio::test]
    async fn a_connection_that_breaks_was_an_attempt() {
        let (listener, handler) = listen().await;
        let (attempt, ()) = tokio::join!(post(&handler), async { drop(accept(&listener).await) });
        assert!(matches!(attempt, Attempt::Answered(Answered { answer: Answer::Broken(_), .. })), "{attempt:?}");
    }

    #[tokio::test]
    async fn an_endless_body_is_cut_off() {
        let (listener, handler) = listen().await;
        let server = tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            let head = b"HTTP/1.1 422 No\r\ncontent-length: 1000000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            // Ends when the other side closes.
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let attempt = timeout(LONG, post(&handler)).await.unwrap();
        let Attempt::Answered(Answered { answer: Answer::Status { code, text, .. }, .. }) = attempt else {
            panic!("{attempt:?}")
        };
        assert_eq!((code, text), (StatusCode::UNPROCESSABLE_ENTITY, "x".repeat(answer::TEXT_LIMIT)));
        timeout(LONG, server).await.expect("the connection is closed").unwrap();
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let (listener, handler) = listen().await;
        let server = async {
            let mut stream = accept(&listener).await;
            let head = b"HTTP/1.1 200 OK\r\nretry-after: 7\r\ncontent-length: 5\r\n\r\n";
            stream.write_all(head).await.unwrap();
            stream
        };
        let (attempt, _open) = timeout(LONG, async { tokio::join!(post(&handler), server) }).await.unwrap();
        let retry_after = Some(Duration::from_secs(7));
        let expected = Answer::Status { code: StatusCode::OK, retry_after, text: String::new() };
        assert_eq!(attempt, Attempt::Answered(Answered::without_content(expected)));
    }
}
