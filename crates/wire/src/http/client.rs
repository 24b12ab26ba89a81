//! The driver: warm connections to one address, and requests on them.
//!
//! A connection has no task. The future of a request writes and reads itself, and whoever drops it closes the
//! connection. While it waits for an answer it holds no buffer: the request is encoded when there is a connection and
//! let go of when it is written, and a buffer is taken from a pool when there is something to read.

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

/// A request, but for what all requests have alike.
#[derive(Debug)]
pub struct Outgoing<B> {
    /// Its own header lines.
    pub lines: HeaderLines,
    /// Its body: it is copied where it is short, else it is kept until it is written.
    pub body: B,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError<E> {
    /// No connection was made, so nothing was sent.
    #[error("{0}")]
    Unreachable(E),
    /// The request cannot be encoded.
    #[error("{0}")]
    Invalid(String),
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
    /// A client whose requests begin with this prefix. To be called on a runtime.
    pub fn new(connector: C, prefix: RequestPrefix, limits: IdleLimits) -> Self {
        Self { connector, pool: Pool::start(prefix, limits) }
    }

    /// Whether there is a warm connection now.
    pub fn is_warm(&self) -> bool {
        self.pool.has_idle()
    }

    /// Sends, on a warm connection if there is one, and waits until `end` for the head of the response. Dropped before
    /// it is done, it costs the connection. `encode` makes the request when there is a connection to write it on.
    ///
    /// A server may close a warm connection in the moment in which the request goes out. If not a byte of an answer
    /// came, the request is encoded and sent once more, on a new connection, within [`IdleLimits::max_race`]: requests
    /// may be handled twice then (RFC 9110, section 9.2.2).
    ///
    /// # Errors
    /// As [`SendError`] says.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, for each request in flight")]
    pub fn send<'a, B: AsRef<[u8]> + Into<Bytes>>(
        &'a self,
        encode: &'a mut (impl FnMut() -> Result<Outgoing<B>, String> + Send),
        end: Instant,
    ) -> impl Future<Output = Result<Response, SendError<C::Error>>> {
        async move {
            let mut connection = self.pool.take();
            let mut is_warm = connection.is_some();
            loop {
                let used = match connection.take() {
                    Some(connection) => connection,
                    // Boxed, because most requests do not need it, and for as long as it takes only.
                    None => Box::pin(self.connect(end)).await?,
                };
                let request = encode().map_err(SendError::Invalid)?;
                let mut wire = Wire::new(self.pool.clone(), used, request);
                let began = Instant::now();
                let Ok(received) = timeout_at(end, Response::receive(&mut wire)).await else {
                    return Err(SendError::TimedOut);
                };
                match received {
                    Ok(head) => return Ok(Response::new(wire, head)),
                    // Another one may do.
                    Err(_) if is_warm && wire.is_unsent() => {
                        connection = self.pool.take();
                        is_warm = connection.is_some();
                    }
                    Err(_) if is_warm && wire.is_unanswered() && began.elapsed() < self.pool.limits.max_race => {
                        is_warm = false;
                        connection = Some(Box::pin(self.connect_again(end)).await?);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    async fn connect(&self, end: Instant) -> Result<Box<Connection>, SendError<C::Error>> {
        let connected = timeout_at(end, self.connector.connect()).await.map_err(|_| SendError::ConnectTimedOut)?;
        connected.map(Connection::new).map_err(SendError::Unreachable)
    }

    /// Connects after a request without an answer.
    async fn connect_again(&self, end: Instant) -> Result<Box<Connection>, SendError<C::Error>> {
        self.connect(end).await.map_err(|error| match error {
            SendError::Unreachable(why) => SendError::ClosedThenUnreachable(why),
            SendError::ConnectTimedOut => SendError::TimedOut,
            other => other,
        })
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

    type Encode = fn() -> Result<Outgoing<Bytes>, String>;

    fn size_of<F: Future>(_: impl Fn(&'static Client<Never>, &'static mut Encode, Instant) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// There are up to thousands of them.
    #[test]
    fn a_request_in_flight_is_small() {
        let sending = size_of(Client::send::<Bytes>);
        assert!(sending <= 256, "{sending} bytes, its timer included");
        let (body, connection) = (std::mem::size_of::<Body>(), std::mem::size_of::<Connection>());
        assert!(body <= 64, "{body} bytes");
        assert!(connection <= 96, "{connection} bytes");
    }
}
