//! One attempt: the event as an HTTP request to the handler's container, on a warm connection.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tidegate_broker_client::contract::Delivery;
use tokio::time::{Instant, timeout, timeout_at};

use crate::deliver::connections::{Connections, Failure, Lease, Outgoing};
use crate::event::request::Parts;
use crate::ops::budget::{ByteBudget, Share};
use crate::settle::outcome::{Answer, retry_after};

/// Of a response's body this much is read, to keep the connection; a longer one costs its connection.
const BODY_LIMIT: usize = 64 * 1024;
/// What is kept of a body is kept in pieces of so many bytes.
const PIECE: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(1);
/// Of a failure's body this much is kept.
const TEXT_LIMIT: usize = 512;

/// What a successful response brought, where somebody wants to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// Nobody wanted it, or the response was not a success.
    Ignored,
    /// What there is of it.
    Kept {
        /// The response's headers.
        headers: HeaderMap,
        /// Its body.
        body: Result<Bytes, TooLong>,
        /// What the body takes, to be kept as long as anything of it is.
        share: Share,
    },
}

impl Content {
    /// What its bytes take, for whoever keeps a part of them.
    pub fn take_share(&mut self) -> Option<Share> {
        match self {
            Self::Ignored => None,
            Self::Kept { share, .. } => Some(share.take()),
        }
    }
}

/// A response's body is longer than the caller can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is too long")]
pub struct TooLong;

/// An answer, and what came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// What a 2xx brought.
    pub content: Content,
}

impl Answered {
    /// An answer of which nothing else is wanted.
    pub fn without_content(answer: Answer) -> Self {
        Self { answer, content: Content::Ignored }
    }
}

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
    connections: Connections,
    budget: ByteBudget,
    host: HeaderValue,
    path: Uri,
}

impl Handler {
    /// The container that listens as `delivery` says. To be called on a runtime.
    ///
    /// # Errors
    /// The path is not part of a URI.
    pub fn new(delivery: &Delivery, budget: ByteBudget) -> Result<Self, http::Error> {
        Ok(Self {
            budget,
            path: Uri::builder().path_and_query(delivery.path.as_str()).build()?,
            host: HeaderValue::try_from(format!("127.0.0.1:{}", delivery.port))?,
            connections: Connections::new(delivery.port, usize::from(delivery.concurrency)),
        })
    }

    /// What answers may take.
    pub fn budget(&self) -> &ByteBudget {
        &self.budget
    }

    /// Posts, and waits for the answer at most this long. Of a 2xx the content is kept if it has at most
    /// `wanted` bytes (`None`: it is ignored); where it is wanted, a 2xx without its whole body is no answer: nobody knows
    /// what the rest would have said. Redirects are not followed.
    pub async fn post(&self, parts: Parts, limit: Duration, wanted: Option<usize>) -> Attempt {
        let end = Instant::now() + limit;
        let sent = {
            let request = self.request(parts);
            timeout_at(end, self.connections.send(&request)).await
        };
        match sent {
            Ok(Ok((response, lease))) => {
                let wanted = wanted.map(|limit| (limit, self.budget.share(0)));
                Attempt::Answered(answered(response, lease, end, wanted).await)
            }
            Ok(Err(Failure::Unreachable(why))) => Attempt::Unreachable(why),
            Ok(Err(Failure::Broken(why))) => Attempt::Answered(Answered::without_content(Answer::Broken(why))),
            Err(_) => Attempt::Answered(Answered::without_content(Answer::Timeout(limit))),
        }
    }

    /// Where events are posted to.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.host.to_str().unwrap_or_default(), self.path)
    }

    fn request(&self, (headers, body): Parts) -> Outgoing {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        let agent = HeaderValue::from_static(concat!("tidegate-sidecar/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        request
    }
}

/// The answer that a response is. Its body is read as far as the bounds allow.
async fn answered(
    response: Response<Incoming>,
    lease: Lease,
    end: Instant,
    wanted: Option<(usize, Share)>,
) -> Answered {
    let (parts, body) = response.into_parts();
    let asked = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|value| retry_after(value, SystemTime::now()));
    let code = parts.status;
    let (answered, complete) = match wanted.filter(|_| code.is_success()) {
        Some((limit, mut share)) => {
            let body = match timeout_at(end, whole(body, limit, &mut share)).await {
                Ok(Ok(body)) => body,
                Ok(Err(error)) => return broken(code, &with_causes(&error)),
                Err(_) => return broken(code, "it did not end in time"),
            };
            let complete = body.is_ok();
            let content = Content::Kept { headers: parts.headers, body, share };
            (Answered { answer: Answer::Status { code, retry_after, text: String::new() }, content }, complete)
        }
        None => {
            let (text, complete) = text(body, code).await;
            (Answered::without_content(Answer::Status { code, retry_after, text }), complete)
        }
    };
    if complete {
        // Ready at once, or soon closed.
        let _ = timeout(BODY_TIME, lease.give_back()).await;
    }
    answered
}

/// A body, read as it arrives: each piece waits until there is room for it, and the other side for us.
async fn whole(mut body: Incoming, limit: usize, share: &mut Share) -> Result<Result<Bytes, TooLong>, hyper::Error> {
    let mut read = Pieces::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if share.bytes() + data.len() > limit {
            return Ok(Err(TooLong));
        }
        share.grow(data.len()).await;
        read.push(&data);
    }
    Ok(Ok(read.into_bytes()))
}

/// What was read so far, in pieces that are not moved when more is read: a buffer that doubles leaves as much behind as
/// it holds.
#[derive(Debug, Default)]
struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    fn push(&mut self, data: &[u8]) {
        match self.0.last_mut() {
            Some(last) if last.capacity() - last.len() >= data.len() => last.extend_from_slice(data),
            last => {
                // The first is often all there is.
                let room = if last.is_some() { PIECE.max(data.len()) } else { data.len() };
                let mut piece = Vec::with_capacity(room);
                piece.extend_from_slice(data);
                self.0.push(piece);
            }
        }
    }

    fn into_bytes(mut self) -> Bytes {
        match self.0.pop() {
            Some(only) if self.0.is_empty() => only.into(),
            Some(last) => {
                self.0.push(last);
                self.0.concat().into()
            }
            None => Bytes::new(),
        }
    }
}

/// An answer of which a part is missing.
fn broken(code: StatusCode, problem: &str) -> Answered {
    Answered::without_content(Answer::Broken(format!("the body of a {} is incomplete: {problem}", code.as_u16())))
}

/// The beginning of a body, where somebody wants to read it, and whether its end has come.
async fn text(mut body: Incoming, status: StatusCode) -> (String, bool) {
    if body.is_end_stream() {
        return (String::new(), true);
    }
    let (mut kept, mut seen) = (Vec::new(), 0);
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            seen += data.len();
            if !status.is_success() {
                kept.extend_from_slice(&data[..data.len().min(TEXT_LIMIT - kept.len())]);
            }
            if seen > BODY_LIMIT {
                return false;
            }
        }
        true
    };
    let complete = timeout(BODY_TIME, read).await.unwrap_or(false);
    (String::from_utf8_lossy(&kept).into_owned(), complete)
}

/// An error with what caused it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
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
    use tidegate_broker_client::contract::{Format, Order, Retry};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn handler(port: u16) -> Handler {
        let retry = Retry { max_attempts: 1, initial: LONG, max: LONG, factor: 1.0, jitter: 0.0 };
        let delivery = Delivery {
            port,
            path: "/".into(),
            format: Format::Binary,
            order: Order::None,
            concurrency: 1,
            rate: None,
            timeout: LONG,
            retry,
        };
        Handler::new(&delivery, ByteBudget::default()).unwrap()
    }

    async fn listen() -> (TcpListener, Handler) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, handler(port))
    }

    async fn post(handler: &Handler) -> Attempt {
        handler.post((HeaderMap::new(), Bytes::from_static(b"data")), LONG, None).await
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
        assert!(
            matches!(post(&handler).await, Attempt::Unreachable(why) if why.contains("nothing listens on 127.0.0.1"))
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
        assert_eq!(attempt, Attempt::Answered(Answered::without_content(expected)));
    }
}
