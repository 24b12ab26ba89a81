//! Connections, and their bounds: every program on the machine can open them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// A request's header, in bytes.
const MAX_HEADER: usize = 16 << 10;
/// Until it is there.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Before connections are taken again where the system has no room for more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests, for as long as it is polled.
pub async fn serve(listener: TcpListener, router: Router) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let mut connection = hyper::server::conn::http1::Builder::new();
        connection.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER);
        tasks.spawn(async move {
            // A connection that breaks is its browser's affair.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}
