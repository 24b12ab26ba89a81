//! Warm connections to the handler's container: hyper's client of one connection, and as much of a pool as one
//! address on loopback needs. A general pool keeps several kilobytes for each request in flight and looks up, for
//! each event, the only key there is.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout};

use crate::deliver::with_causes;

/// Common HTTP servers close idle connections after 2 s (gunicorn) or 5 s (Node.js, uvicorn): we close first,
/// or a request would now and then meet a connection that is just being closed.
const IDLE: Duration = Duration::from_millis(1500);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// What a connection reads ahead, and so the longest head of an answer, in bytes.
const READ_BUFFER: usize = 64 << 10;

/// A request as it is sent: with a path as its URI, and `Host`.
pub type Outgoing = Request<Full<Bytes>>;
type Sender = SendRequest<Full<Bytes>>;

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, so nothing was sent.
    Unreachable(String),
    /// The connection broke with the request.
    Broken(String),
}

/// The connections to one address. Clones share them.
#[derive(Clone, Debug)]
pub struct Connections {
    pool: Arc<Pool>,
}

/// The connection that a response came by.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    sender: Sender,
}

#[derive(Debug)]
struct Pool {
    address: SocketAddr,
    most: usize,
    /// The one that was used last is the last.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Connections {
    /// To this port on loopback; so many are kept while nobody uses them. To be called on a runtime.
    pub fn new(port: u16, most: usize) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let pool = Arc::new(Pool { address, most, idle: Mutex::default() });
        tokio::spawn(expire(Arc::downgrade(&pool)));
        Self { pool }
    }

    /// Sends, on a warm connection if there is one. Dropped before it is done, it costs the connection.
    ///
    /// # Errors
    /// As [`Failure`] says.
    pub async fn send(&self, mut request: Outgoing) -> Result<(Response<Incoming>, Lease), Failure> {
        loop {
            let (mut sender, warm) = match self.pool.take() {
                Some(sender) => (sender, true),
                // Boxed, because most requests do not need it.
                None => (Box::pin(self.pool.connect()).await.map_err(Failure::Unreachable)?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease { pool: self.pool.clone(), sender })),
                Err(mut error) => match error.take_message() {
                    // The handler closed it before any of the request was written.
                    Some(unsent) if warm => request = unsent,
                    _ => return Err(Failure::Broken(with_causes(error.error()))),
                },
            }
        }
    }
}

impl Lease {
    /// Waits until the connection is ready for another request, which it is once the response was read to its end,
    /// and keeps it for others; not if it is closed.
    pub async fn give_back(mut self) {
        if self.sender.ready().await.is_ok() {
            self.pool.put(self.sender);
        }
    }
}

impl Pool {
    async fn connect(&self) -> Result<Sender, String> {
        let stream = match timeout(CONNECT_LIMIT, TcpStream::connect(self.address)).await {
            Ok(connected) => connected.map_err(|error| with_causes(&error))?,
            Err(_) => return Err(format!("no connection within {CONNECT_LIMIT:?}")),
        };
        stream.set_nodelay(true).map_err(|error| with_causes(&error))?;
        let handshake = Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|error| with_causes(&error))?;
        // It ends with its sender or with the other side; who sends hears of an error.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// The one that was used last, if it is still good.
    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle();
        while let Some(Idle { sender, since }) = idle.pop_back() {
            if since.elapsed() >= IDLE {
                // All others are older.
                idle.clear();
            } else if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn put(&self, sender: Sender) {
        let mut idle = self.idle();
        if idle.len() < self.most {
            idle.push_back(Idle { sender, since: Instant::now() });
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what was not used for a while, as long as there is a pool.
async fn expire(pool: Weak<Pool>) {
    let mut ticks = interval(IDLE / 2);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        let expired = idle.partition_point(|one| one.since.elapsed() >= IDLE);
        idle.drain(..expired);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode, Uri, header};
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn request() -> Outgoing {
        let mut request = Request::post(Uri::from_static("/")).body(Full::new(Bytes::from_static(b"data"))).unwrap();
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        request
    }

    async fn send(connections: &Connections) -> Result<StatusCode, Failure> {
        let (response, lease) = timeout(LONG, connections.send(request())).await.unwrap()?;
        let status = response.status();
        response.into_body().collect().await.unwrap();
        timeout(LONG, lease.give_back()).await.unwrap();
        Ok(status)
    }

    /// Answers so many requests on each connection, and then closes it.
    async fn serve(listener: TcpListener, requests: usize, connections: usize) {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..requests {
                let mut buffer = [0; 1024];
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                stream.write_all(ANSWER).await.unwrap();
            }
        }
    }

    /// Until we have heard that the other side closed what is kept: before, no client can know.
    async fn closed(connections: &Connections) {
        let all = || connections.pool.idle().iter().all(|one| one.sender.is_closed());
        timeout(LONG, async {
            while !all() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the server closes it");
    }

    async fn connections() -> (TcpListener, Connections) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, Connections::new(port, 1))
    }

    #[tokio::test]
    async fn one_connection_serves_many_requests() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(serve(listener, 3, 1));
        for _ in 0..3 {
            assert_eq!(send(&connections).await, Ok(StatusCode::OK));
        }
        timeout(LONG, server).await.expect("all came by one").unwrap();
    }

    #[tokio::test]
    async fn what_the_other_side_closed_is_not_used_again() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(serve(listener, 1, 20));
        for _ in 0..20 {
            assert_eq!(send(&connections).await, Ok(StatusCode::OK));
            closed(&connections).await;
        }
        timeout(LONG, server).await.expect("each came by one of its own").unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_first() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream.write_all(ANSWER).await.unwrap();
            stream.read(&mut buffer).await.unwrap()
        });
        assert_eq!(send(&connections).await, Ok(StatusCode::OK));
        assert_eq!(timeout(LONG, server).await.expect("it is closed").unwrap(), 0);
    }

    #[tokio::test]
    async fn no_more_are_kept_than_are_wanted() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(serve(listener, 1, 3));
        let both = async { tokio::join!(connections.send(request()), connections.send(request())) };
        let (one, other) = timeout(LONG, both).await.unwrap();
        for (response, lease) in [one.unwrap(), other.unwrap()] {
            response.into_body().collect().await.unwrap();
            lease.pool.put(lease.sender);
        }
        assert_eq!(connections.pool.idle().len(), 1);
        server.abort();
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable() {
        let (listener, connections) = connections().await;
        drop(listener);
        assert!(matches!(send(&connections).await, Err(Failure::Unreachable(why)) if why.contains("refused")));
    }
}
