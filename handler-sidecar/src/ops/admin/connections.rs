//! The connections of the sidecar's own listener. Its port is open to the pod network, so each is small and short, and
//! one address has few of them: neither memory nor the kubelet's probes depend on what strangers do.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_service::Service as _;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// Connections of one address at a time.
const MAX_OF_ADDRESS: usize = 16;
/// The time for the head of the only request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// After an `accept` that failed: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let counts = ConnectionCounts::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // One for which there is no counted is closed.
                    if let Some(counted) = counts.take(peer.ip()) {
                        connections.spawn(answer(stream, peer, router.clone(), counted));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the admin port");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, peer: SocketAddr, router: Router, _place: CountedConnection) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the admin port failed");
    }
}

/// The connections of each client.
#[derive(Clone, Default)]
struct ConnectionCounts(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// The counted of a connection; given back on drop.
struct CountedConnection {
    counts: ConnectionCounts,
    address: IpAddr,
}

impl ConnectionCounts {
    fn take(&self, address: IpAddr) -> Option<CountedConnection> {
        let address = address.to_canonical();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (taken.values().sum::<usize>(), taken.get(&address).copied().unwrap_or(0));
        if all >= MAX_CONNECTIONS || own >= MAX_OF_ADDRESS {
            return None;
        }
        taken.insert(address, own + 1);
        Some(CountedConnection { counts: self.clone(), address })
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut taken = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_few_places_and_all_together_have_a_bound() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let counts = ConnectionCounts::default();
        let mut taken: Vec<_> = (0..MAX_OF_ADDRESS).map(|_| counts.take(address(1)).unwrap()).collect();
        assert!(counts.take(address(1)).is_none());
        assert!(counts.take("::ffff:10.0.0.1".parse().unwrap()).is_none(), "it is the same address");
        taken.pop();
        taken.push(counts.take(address(1)).unwrap());
        for last in 2.. {
            let more: Vec<_> = (0..MAX_OF_ADDRESS).map_while(|_| counts.take(address(last))).collect();
            if more.is_empty() {
                break;
            }
            taken.extend(more);
        }
        assert_eq!(taken.len(), MAX_CONNECTIONS);
        taken.clear();
        assert!(counts.0.lock().unwrap().is_empty());
    }
}
