//! Warm connections to the handler's container: hyper's client of one connection, and as much of a pool as one
//! address on loopback needs. A general pool keeps several kilobytes for each request in flight and looks up, for
//! each event, the only key there is.

mod counted;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, interval};

use self::counted::{Counted, Received};
use crate::deliver::loopback;
use crate::deliver::post::with_causes;

/// Common HTTP servers close idle connections after 2 s (gunicorn) or 5 s (Node.js, uvicorn): we close first,
/// or a request would now and then meet a connection that is just being closed.
const IDLE: Duration = Duration::from_millis(1500);
/// What a connection reads ahead, and so the longest head of an answer, in bytes.
const READ_BUFFER: usize = 32 << 10;

/// A request as it is sent: with a path as its URI, and `Host`.
pub type Outgoing = Request<Full<Bytes>>;

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
    connection: Connection,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    received: Received,
}

#[derive(Debug)]
struct Pool {
    port: u16,
    most: usize,
    /// The one that was used last is the last.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Connections {
    /// To this port on loopback; so many are kept while nobody uses them. To be called on a runtime.
    pub fn new(port: u16, most: usize) -> Self {
        let pool = Arc::new(Pool { port, most, idle: Mutex::default() });
        tokio::spawn(expire(Arc::downgrade(&pool)));
        Self { pool }
    }

    /// Sends, on a warm connection if there is one. Dropped before it is done, it costs the connection.
    ///
    /// A warm connection may be closed by the handler in the moment in which the request goes out. If not a byte of an
    /// answer came, the request is sent once more, on a new connection.
    ///
    /// # Errors
    /// As [`Failure`] says.
    pub async fn send(&self, request: &Outgoing) -> Result<(Response<Incoming>, Lease), Failure> {
        while let Some(mut connection) = self.pool.take() {
            let before = connection.received.bytes();
            match connection.sender.try_send_request(request.clone()).await {
                Ok(response) => return Ok((response, Lease { pool: self.pool.clone(), connection })),
                Err(mut error) => {
                    // Closed before any of the request was written: another one may do.
                    if error.take_message().is_none() {
                        if connection.received.bytes() == before {
                            return Box::pin(self.send_again(request)).await;
                        }
                        return Err(Failure::Broken(with_causes(error.error())));
                    }
                }
            }
        }
        // Boxed, because most requests do not need it.
        Box::pin(self.send_on_new_connection(request)).await
    }

    async fn send_on_new_connection(&self, request: &Outgoing) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut connection = self.pool.connect().await.map_err(Failure::Unreachable)?;
        match connection.sender.send_request(request.clone()).await {
            Ok(response) => Ok((response, Lease { pool: self.pool.clone(), connection })),
            Err(error) => Err(Failure::Broken(with_causes(&error))),
        }
    }

    /// After a request without an answer. That nothing takes a connection any more may be the work of that request.
    async fn send_again(&self, request: &Outgoing) -> Result<(Response<Incoming>, Lease), Failure> {
        self.send_on_new_connection(request).await.map_err(|failure| match failure {
            Failure::Unreachable(why) => {
                Failure::Broken(format!("the connection was closed without an answer, and then {why}"))
            }
            broken @ Failure::Broken(_) => broken,
        })
    }
}

impl Lease {
    /// Waits until the connection is ready for another request, which it is once the response was read to its end,
    /// and keeps it for others; not if it is closed.
    pub async fn give_back(mut self) {
        if self.connection.sender.ready().await.is_ok() {
            self.pool.put(self.connection);
        }
    }
}

impl Pool {
    async fn connect(&self) -> Result<Connection, String> {
        let stream = loopback::connect(self.port).await?;
        stream.set_nodelay(true).map_err(|error| with_causes(&error))?;
        let (stream, received) = Counted::new(stream);
        let handshake = Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|error| with_causes(&error))?;
        // It ends with its sender or with the other side; who sends hears of an error.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, received })
    }

    /// The one that was used last, if it is still good.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(Idle { connection, since }) = idle.pop_back() {
            if since.elapsed() >= IDLE {
                // All others are older.
                idle.clear();
            } else if connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < self.most {
            idle.push_back(Idle { connection, since: Instant::now() });
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
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn request() -> Outgoing {
        let mut request = Request::post(Uri::from_static("/")).body(Full::new(Bytes::from_static(b"data"))).unwrap();
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        request
    }

    async fn send(connections: &Connections) -> Result<StatusCode, Failure> {
        let (response, lease) = timeout(LONG, connections.send(&request())).await.unwrap()?;
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
        let all = || connections.pool.idle().iter().all(|one| one.connection.sender.is_closed());
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

    /// Takes a request on the first connection, then closes it without a byte of an answer when the next one is there.
    async fn close_silently(listener: &TcpListener, says: &[u8]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(ANSWER).await.unwrap();
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(says).await.unwrap();
    }

    #[tokio::test]
    async fn a_warm_connection_that_ends_without_an_answer_is_replaced_once() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(async move {
            close_silently(&listener, b"").await;
            serve(listener, 1, 1).await;
        });
        assert_eq!(send(&connections).await, Ok(StatusCode::OK));
        assert_eq!(send(&connections).await, Ok(StatusCode::OK));
        timeout(LONG, server).await.expect("by a second connection").unwrap();
    }

    #[tokio::test]
    async fn a_part_of_an_answer_is_one_and_so_is_silence_of_a_new_connection() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(async move {
            close_silently(&listener, b"HTTP/1.1 2").await;
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        });
        assert_eq!(send(&connections).await, Ok(StatusCode::OK));
        assert!(matches!(send(&connections).await, Err(Failure::Broken(_))), "it may have been handled");
        assert!(matches!(send(&connections).await, Err(Failure::Broken(_))), "the connection was new");
        timeout(LONG, server).await.unwrap().unwrap();
    }

    /// What ends its handler would never be counted otherwise.
    #[tokio::test]
    async fn a_handler_that_is_gone_with_the_request_is_no_outage() {
        let (listener, connections) = connections().await;
        let server = tokio::spawn(async move { close_silently(&listener, b"").await });
        assert_eq!(send(&connections).await, Ok(StatusCode::OK));
        let second = send(&connections).await;
        assert!(matches!(second, Err(Failure::Broken(why)) if why.contains("nothing listens")));
        server.await.unwrap();
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
        let (first, second) = (request(), request());
        let both = async { tokio::join!(connections.send(&first), connections.send(&second)) };
        let (one, other) = timeout(LONG, both).await.unwrap();
        for (response, lease) in [one.unwrap(), other.unwrap()] {
            response.into_body().collect().await.unwrap();
            lease.pool.put(lease.connection);
        }
        assert_eq!(connections.pool.idle().len(), 1);
        server.abort();
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable() {
        let (listener, connections) = connections().await;
        drop(listener);
        assert!(
            matches!(send(&connections).await, Err(Failure::Unreachable(why)) if why.contains("nothing listens on 127.0.0.1"))
        );
    }
}
