//! One attempt: the event as an HTTP request to the handler's container, on a warm connection.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tidegate_broker_client::contract::Delivery;

use crate::outcome::{Answer, retry_after};

/// Common HTTP servers close idle connections after 2 s (gunicorn) or 5 s (Node.js, uvicorn): we close first,
/// or a request would now and then meet a connection that is just being closed.
const IDLE: Duration = Duration::from_millis(1500);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Of a response's body this much is read, to keep the connection; a longer one costs its connection.
const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(1);
/// Of a failure's body this much is kept.
const TEXT_LIMIT: usize = 512;

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The request went out.
    Answered(Answer),
    /// No connection, so nothing was sent: the handler is not up. No attempt was used.
    Unreachable(String),
}

/// The handler's container.
#[derive(Clone, Debug)]
pub struct Handler {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
}

impl Handler {
    /// The container that listens as `delivery` says.
    ///
    /// # Errors
    /// The path is not part of a URI.
    pub fn new(delivery: &Delivery) -> Result<Self, http::Error> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(format!("127.0.0.1:{}", delivery.port))
            .path_and_query(delivery.path.as_str())
            .build()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(usize::from(delivery.concurrency))
            .build(connector);
        Ok(Self { client, uri })
    }

    /// The request for an event in binary mode.
    pub fn request(&self, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        let agent = HeaderValue::from_static(concat!("tidegate-sidecar/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        request
    }

    /// Sends, and waits for status and headers of the response; the caller bounds the time. Redirects are not
    /// followed.
    ///
    /// # Errors
    /// There is no response.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Attempt> {
        self.client.request(request).await.map_err(failure)
    }
}

/// The answer that a response is. Its body is read as far as the bounds allow.
pub async fn answer(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let asked = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|value| retry_after(value, SystemTime::now()));
    let text = text(body, parts.status).await;
    Answer::Status { code: parts.status, retry_after, text }
}

async fn text(mut body: Incoming, status: StatusCode) -> String {
    let (mut kept, mut seen) = (Vec::new(), 0);
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            seen += data.len();
            if !status.is_success() {
                kept.extend_from_slice(&data[..data.len().min(TEXT_LIMIT - kept.len())]);
            }
            if seen > BODY_LIMIT {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_TIME, read).await;
    String::from_utf8_lossy(&kept).into_owned()
}

fn failure(error: Error) -> Attempt {
    if error.is_connect() {
        Attempt::Unreachable(with_causes(&error))
    } else {
        Attempt::Answered(Answer::Broken(with_causes(&error)))
    }
}

fn with_causes(error: &Error) -> String {
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
    use tidegate_broker_client::contract::Retry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn handler(port: u16) -> Handler {
        let retry = Retry { max_attempts: 1, initial: LONG, max: LONG, factor: 1.0, jitter: 0.0 };
        Handler::new(&Delivery { port, path: "/".into(), concurrency: 1, timeout: LONG, retry }).unwrap()
    }

    async fn listen() -> (TcpListener, Handler) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, handler(port))
    }

    async fn post(handler: &Handler) -> Attempt {
        let request = handler.request(HeaderMap::new(), Bytes::from_static(b"data"));
        match handler.send(request).await {
            Ok(response) => Attempt::Answered(answer(response).await),
            Err(attempt) => attempt,
        }
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable() {
        let (listener, handler) = listen().await;
        drop(listener);
        assert!(matches!(post(&handler).await, Attempt::Unreachable(why) if why.contains("refused")));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_was_an_attempt() {
        let (listener, handler) = listen().await;
        let (attempt, ()) = tokio::join!(post(&handler), async { drop(accept(&listener).await) });
        assert!(matches!(attempt, Attempt::Answered(Answer::Broken(_))), "{attempt:?}");
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
        let Attempt::Answered(Answer::Status { code, text, .. }) = attempt else { panic!("{attempt:?}") };
        assert_eq!((code, text), (StatusCode::UNPROCESSABLE_ENTITY, "x".repeat(TEXT_LIMIT)));
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
        assert_eq!(attempt, Attempt::Answered(expected));
    }
}
