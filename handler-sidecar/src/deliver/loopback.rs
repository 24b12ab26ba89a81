//! Connections inside the pod: to a port on either loopback address, since a program may listen on one only.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tidegate_broker_client::contract::Delivery;
use tidegate_wire::http::Connect;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::deliver::listeners::{self, PortName};
use crate::deliver::post::error_chain;

/// Both loopback addresses, in the order in which they are tried.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// A connection on loopback is made at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A port of the pod, for its client.
#[derive(Clone, Copy, Debug)]
pub struct Loopback {
    /// The port.
    pub port: u16,
    /// Where it was named.
    pub named: PortName,
}

impl From<&Delivery> for Loopback {
    fn from(delivery: &Delivery) -> Self {
        Self { port: delivery.port, named: delivery.port_source.into() }
    }
}

impl Connect for Loopback {
    type Error = String;

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = connect(self.port, self.named).await?;
        stream.set_nodelay(true).map_err(|error| error_chain(&error))?;
        Ok(stream)
    }
}

/// Connects to a port on loopback.
///
/// # Errors
/// Neither address takes a connection; says so, and what listens instead.
pub async fn connect(port: u16, named: PortName) -> Result<TcpStream, String> {
    let mut problems = Vec::new();
    for address in ADDRESSES {
        match timeout(CONNECT_LIMIT, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => problems.push((address, Some(error))),
            Err(_) => problems.push((address, None)),
        }
    }
    // Nothing is there; or, of the second one, the pod has no such address, which is no news.
    let is_absent = |address: &IpAddr, error: &Option<std::io::Error>| {
        error.as_ref().is_some_and(|error| address.is_ipv6() || error.kind() == ErrorKind::ConnectionRefused)
    };
    let at = |address: &IpAddr| SocketAddr::new(*address, port).to_string();
    let found: Vec<_> = problems.iter().filter(|(address, error)| !is_absent(address, error)).collect();
    if found.is_empty() {
        let [first, second] = ADDRESSES;
        let instead = listeners::instead(port, named).await;
        return Err(format!("nothing listens on {} or {}{instead}", at(&first), at(&second)));
    }
    let in_words = found.into_iter().map(|(address, error)| match error {
        Some(error) => format!("{}: {}", at(address), error_chain(error)),
        None => format!("{} takes no connection within {CONNECT_LIMIT:?}", at(address)),
    });
    Err(in_words.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use tidegate_test_broker::free_port;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn either_loopback_will_do() {
        for address in ADDRESSES {
            let port = free_port();
            let _listener = TcpListener::bind((address, port)).await.unwrap();
            assert_eq!(connect(port, PortName::Setting).await.unwrap().peer_addr().unwrap().ip(), address);
        }
    }

    #[tokio::test]
    async fn where_it_was_tried_is_said() {
        let port = free_port();
        let why = connect(port, PortName::Container).await.unwrap_err();
        assert!(
            why.starts_with(&format!("nothing listens on 127.0.0.1:{port} or [::1]:{port}, the first containerPort: ")),
            "{why}"
        );
    }

    /// Another address of the same network namespace, as the pod's own is.
    #[tokio::test]
    async fn a_program_on_another_address_is_found() {
        let port = free_port();
        let _listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let why = connect(port, PortName::Container).await.unwrap_err();
        assert!(why.contains(&format!("the pod listens on 127.0.0.2:{port}")), "{why}");
    }
}
