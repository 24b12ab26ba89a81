//! A listener: accepts, and gives each connection a task of its own.
//!
//! Nothing but `accept` happens in the loop, so that no client can hold up another one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What is spoken on a connection.
pub trait Protocol: Clone + Send + 'static {
    /// Serves a connection to its end, whoever ends it; `stop` ends it after what is in progress.
    fn serve(self, stream: TcpStream, stop: CancellationToken) -> impl Future<Output = ()> + Send;
}

/// A listener and what it serves.
pub struct Server<P> {
    /// Where connections come from.
    pub listener: TcpListener,
    /// What is spoken.
    pub protocol: P,
    /// Connections at a time.
    pub connections: usize,
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
        let Self { listener, protocol, connections } = self;
        let slots = Arc::new(Semaphore::new(connections));
        let mut connections = JoinSet::new();
        loop {
            let accept = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept => accepted,
            };
            let Ok((stream, _)) = accepted.inspect_err(|error| tracing::warn!(%error, "accept")) else {
                // Out of file descriptors, most likely: it does not help to ask again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Small answers must not wait for more to send.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "nodelay");
            }
            let serving = protocol.clone().serve(stream, stop.clone());
            connections.spawn(async move {
                serving.await;
                drop(slot);
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}
