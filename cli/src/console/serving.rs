//! Connections, and their bounds: every program on the machine can open them.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
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

/// How often a port is chosen that is free in one of the families alone.
const MAX_CHOICES: usize = 10;

/// A port of loopback, in both families where the machine has them: a browser tries `::1` too for a name under `localhost`, and
/// would give the token to whoever listened there.
pub struct Loopback {
    v4: TcpListener,
    v6: Option<TcpListener>,
}

impl Loopback {
    /// Takes a port; 0: a free one.
    ///
    /// # Errors
    /// It is in use.
    pub async fn bind(port: u16) -> io::Result<Self> {
        let mut choices = 1;
        loop {
            let v4 = TcpListener::bind((IpAddr::from(Ipv4Addr::LOCALHOST), port)).await?;
            match TcpListener::bind((IpAddr::from(Ipv6Addr::LOCALHOST), v4.local_addr()?.port())).await {
                Ok(v6) => return Ok(Self { v4, v6: Some(v6) }),
                Err(error) if error.kind() != ErrorKind::AddrInUse => return Ok(Self { v4, v6: None }),
                Err(error) if port != 0 || choices == MAX_CHOICES => return Err(error),
                Err(_) => choices += 1,
            }
        }
    }

    /// The port.
    ///
    /// # Errors
    /// The system does not say it.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.v4.local_addr()?.port())
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        let v6 = async {
            match &self.v6 {
                Some(v6) => v6.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.v4.accept() => Ok(accepted?.0),
            accepted = v6 => Ok(accepted?.0),
        }
    }
}

/// Answers requests, for as long as it is polled.
pub async fn serve(loopback: Loopback, router: Router) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        let Ok(stream) = loopback.accept().await else {
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
