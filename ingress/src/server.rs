//! A listener: accepts, and gives each connection a task of its own.
//!
//! Nothing but `accept` happens in the loop, so that no client can hold up another one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::connection::Connection;

/// A listener and what it serves.
pub struct Server {
    /// Where connections come from.
    pub listener: TcpListener,
    /// TLS, or `None` for plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// What answers.
    pub router: Router,
    /// Bounds.
    pub limits: Limits,
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

impl Server {
    /// Serves until `stop`, then until the last connection has ended its requests.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, tls, router, limits } = self;
        let slots = Arc::new(Semaphore::new(limits.connections));
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
            let connection = Connection { router: router.clone(), limits: limits.clone(), stop: stop.clone() };
            let tls = tls.clone();
            connections.spawn(async move {
                connection.serve(stream, tls).await;
                drop(slot);
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}
