//! A listener: accepts, and gives each connection a task of its own.
//!
//! Nothing but `accept` happens in the loop, so that no client can hold up another one. A connection beyond the limit
//! does not wait: it is refused with that reason.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::share::Client;
use crate::slots::{Slot, Slots};

/// Maximum number of clients that are being refused; further connections are closed without an answer.
const REFUSALS: usize = 64;
/// Maximum time for telling a client that its connection is refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A protocol that publishers speak.
pub trait Protocol: Clone + Send + 'static {
    /// Serves a connection until it ends. The end of its slot ends it once the requests in progress are answered.
    fn serve(self, stream: TcpStream, slot: Slot) -> impl Future<Output = ()> + Send;

    /// Refuses a client for whose connection there is no room.
    fn refuse(self, stream: TcpStream, client: Client) -> impl Future<Output = ()> + Send;
}

/// A listener and what it serves.
pub struct Server<P> {
    /// Where connections come from.
    pub listener: TcpListener,
    /// What is spoken.
    pub protocol: P,
    /// Connections at a time.
    pub connections: usize,
    /// How long a connection must have been of no use to make room for another.
    pub unused: Duration,
}

/// Listens on a port of every address of the pod, IPv6 included where there is IPv6.
///
/// # Errors
/// The port is taken or not allowed.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

impl<P: Protocol> Server<P> {
    /// Serves until `stop`, then until the last connection has ended its requests.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, protocol, connections, unused } = self;
        let slots = Slots::new(connections, unused, stop.clone());
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, address)) =
                accepted.inspect_err(|error| tracing::warn!(%error, "cannot accept a connection"))
            else {
                // Out of file descriptors, most likely: it does not help to ask again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Small answers must not wait for more to send.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY on a connection");
            }
            let client = Client::from(address.ip());
            if let Some(slot) = slots.take(client.clone()) {
                connections.spawn(protocol.clone().serve(stream, slot));
            } else if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                tracing::debug!(%address, "connection refused: the limit of connections is reached");
                let refusing = timeout(REFUSAL_TIMEOUT, protocol.clone().refuse(stream, client));
                connections.spawn(async move {
                    // A client that takes longer than that does not want to hear it.
                    let _ = refusing.await;
                    drop(refusal);
                });
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}
