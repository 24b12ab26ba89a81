//! The driver: warm connections to one address, and requests on them.
//!
//! A connection has no task. The future of a request writes and reads itself, and whoever drops it closes the
//! connection. While it waits it holds no buffer: one is taken from a pool when there is something to read.

mod buffers;
mod pool;
mod response;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use self::pool::Pool;
pub use self::response::{Body, Response};
use self::wire::{Connection, Wire};
use super::{DecodeError, HeaderLines, RequestPrefix};

/// Makes connections to the address of a client.
pub trait Connect {
    /// Why there is no connection.
    type Error;

    /// Connects. The stream should send at once (`TCP_NODELAY`).
    fn connect(&self) -> impl Future<Output = Result<TcpStream, Self::Error>> + Send;
}

/// What is kept of connections that are not used.
#[derive(Clone, Copy, Debug)]
pub struct IdleLimits {
    /// So many.
    pub max_connections: usize,
    /// So long. Less than the server keeps them, or requests meet connections that are just being closed.
    pub max_age: Duration,
    /// A connection that ends without an answer within this time after a request went out was being closed at that
    /// moment. What takes longer was in work, and ended with it. Zero: no request is sent a second time.
    pub max_race: Duration,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// How it begins.
    pub prefix: &'a RequestPrefix,
    /// Its own header lines.
    pub lines: &'a HeaderLines,
    /// Its body.
    pub body: &'a Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError<E> {
    /// No connection was made, so nothing was sent.
    #[error("{0}")]
    Unreachable(E),
    /// A warm connection was closed without an answer to the request, and then no new one was made. That nothing
    /// takes a connection any more may be the work of the request.
    #[error("the connection was closed without an answer, and then {0}")]
    ClosedThenUnreachable(E),
    /// No connection was made in time, so nothing was sent.
    #[error("no connection was made in time")]
    ConnectTimedOut,
    /// The request went out, or a part of it, and no answer came in time.
    #[error("no answer came in time")]
    TimedOut,
    /// The request went out, or a part of it.
    #[error(transparent)]
    Broken(#[from] ExchangeError),
}

/// A request went out, and no whole response came.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// What came is no response.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A client of one address. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client<C> {
    connector: C,
    pool: Arc<Pool>,
}

impl<C: Connect> Client<C> {
    /// To be called on a runtime.
    pub fn new(connector: C, limits: IdleLimits) -> Self {
        Self { connector, pool: Pool::start(limits) }
    }

    /// Sends, on a warm connection if there is one, and waits until `end` for the head of the response. Dropped before
    /// it is done, it costs the connection.
    ///
    /// A server may close a warm connection in the moment in which the request goes out. If not a byte of an answer
    /// came, the request is sent once more, on a new connection, within [`IdleLimits::max_race`]: requests may be
    /// handled twice then (RFC 9110, section 9.2.2).
    ///
    /// # Errors
    /// As [`SendError`] says.
    pub async fn send(&self, request: Outgoing<'_>, end: Instant) -> Result<Response, SendError<C::Error>> {
        loop {
            let (connection, is_warm) = match self.pool.take() {
                Some(connection) => (connection, true),
                // Boxed, because most requests do not need it, and for as long as it takes only.
                None => (Box::pin(self.connect(end)).await?, false),
            };
            let began = Instant::now();
            let mut wire = Wire::new(self.pool.clone(), connection, request);
            let Ok(received) = timeout_at(end, Response::receive(&mut wire)).await else {
                return Err(SendError::TimedOut);
            };
            match received {
                Ok(head) => return Ok(Response::new(wire, head)),
                // Another one may do.
                Err(_) if is_warm && wire.is_unsent() => {}
                Err(_) if is_warm && wire.is_unanswered() && began.elapsed() < self.pool.limits.max_race => {
                    return Box::pin(self.send_again(request, end)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn connect(&self, end: Instant) -> Result<Box<Connection>, SendError<C::Error>> {
        let connected = timeout_at(end, self.connector.connect()).await.map_err(|_| SendError::ConnectTimedOut)?;
        connected.map(Connection::new).map_err(SendError::Unreachable)
    }

    /// After a request without an answer.
    async fn send_again(&self, request: Outgoing<'_>, end: Instant) -> Result<Response, SendError<C::Error>> {
        let connection = self.connect(end).await.map_err(|error| match error {
            SendError::Unreachable(why) => SendError::ClosedThenUnreachable(why),
            SendError::ConnectTimedOut => SendError::TimedOut,
            other => other,
        })?;
        let mut wire = Wire::new(self.pool.clone(), connection, request);
        let received = timeout_at(end, Response::receive(&mut wire)).await.map_err(|_| SendError::TimedOut)?;
        Ok(Response::new(wire, received?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl Connect for Never {
        type Error = ();

        async fn connect(&self) -> Result<TcpStream, ()> {
            Err(())
        }
    }

    fn size_of<F: Future>(_: impl Fn(&'static Client<Never>, Outgoing<'static>, Instant) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// There are up to thousands of them.
    #[test]
    fn a_request_in_flight_is_small() {
        let (sending, body) = (size_of(Client::send), std::mem::size_of::<Body>());
        assert!(sending <= 320, "{sending} bytes, its timer included");
        assert!(body <= 64, "{body} bytes");
    }
}
