//! What listens in the pod: the containers of a pod share its network, so the kernel tells it to the sidecar.

mod sock_diag;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tidegate_broker_client::contract::PortSource;
use tokio::task::spawn_blocking;

/// Of each table this much is read: listeners are at its beginning.
const TABLE_LIMIT: u64 = 64 * 1024;
/// Other listeners that are named.
const MAX_NAMED: usize = 5;
/// The state LISTEN of `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// All listeners of the pod; none where the kernel does not say.
async fn all() -> Vec<SocketAddr> {
    or_in_tables(sock_diag::listeners()).await
}

/// What the kernel answered; where it does not answer that question, what is in its tables. To read them takes it
/// milliseconds, in which it goes through all places for connections, so another thread does it.
async fn or_in_tables(answer: io::Result<Vec<SocketAddr>>) -> Vec<SocketAddr> {
    match answer {
        Ok(listeners) => listeners,
        Err(error) => {
            tracing::debug!(%error, "listeners are looked up in /proc/net/tcp");
            spawn_blocking(in_tables).await.unwrap_or_default()
        }
    }
}

fn in_tables() -> Vec<SocketAddr> {
    let read = |path: &str| {
        let mut table = String::new();
        let file = File::open(path).ok()?;
        file.take(TABLE_LIMIT).read_to_string(&mut table).ok()?;
        Some(table)
    };
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|path| read(path)).flat_map(|table| parse(&table)).collect()
}

/// Where a port was named that nothing listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortName {
    /// As `delivery.port`.
    Setting,
    /// As the first `containerPort` of the container.
    Container,
    /// In a probe.
    Probe,
}

impl PortName {
    /// What its owner can look at.
    fn remedy(self) -> &'static str {
        match self {
            Self::Setting => "is delivery.port right?",
            Self::Container => "is that containerPort right? Else correct it, or set delivery.port",
            Self::Probe => "is the port of the probe right?",
        }
    }
}

impl From<PortSource> for PortName {
    fn from(source: PortSource) -> Self {
        match source {
            PortSource::Setting => Self::Setting,
            PortSource::Container => Self::Container,
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setting => "delivery.port",
            Self::Container => "the first containerPort",
            Self::Probe => "the probe's port",
        })
    }
}

/// Where that port was named, and where else the pod listens: the end of a sentence about a port on which loopback does
/// not answer.
pub async fn instead(port: u16, named: PortName) -> String {
    format!(", {named}{}", describe(port, named, &all().await))
}

/// Who can connect to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its own pod alone.
    Loopback,
    /// Others too, at this address.
    Exposed(SocketAddr),
}

/// Who can connect to this port; `None`: nothing listens there, or the kernel does not say.
pub async fn reach(port: u16) -> Option<Reach> {
    let listeners: Vec<_> = all().await.into_iter().filter(|listener| listener.port() == port).collect();
    match listeners.iter().find(|listener| !listener.ip().to_canonical().is_loopback()) {
        Some(exposed) => Some(Reach::Exposed(*exposed)),
        None => (!listeners.is_empty()).then_some(Reach::Loopback),
    }
}

fn describe(port: u16, named: PortName, listeners: &[SocketAddr]) -> String {
    if let Some(same) = listeners.iter().find(|listener| listener.port() == port) {
        return format!(": the pod listens on {same} only; let the program listen on 127.0.0.1 or [::1]");
    }
    let mut others: Vec<u16> = listeners.iter().map(SocketAddr::port).filter(|other| *other != OWN_PORT).collect();
    others.sort_unstable();
    others.dedup();
    let shown: Vec<_> = others.iter().take(MAX_NAMED).map(u16::to_string).collect();
    let more = if others.len() > MAX_NAMED { " and others" } else { "" };
    match shown.as_slice() {
        [] => ": the pod listens on no port yet".to_owned(),
        [one] => format!(": the pod listens on port {one}; {}", named.remedy()),
        _ => format!(": the pod listens on ports {}{more}; {}", shown.join(", "), named.remedy()),
    }
}

/// The sidecar's own port, which tells nothing of the handler.
const OWN_PORT: u16 = 15480;

/// The listeners of a table: after a heading, lines of `slot: local-address remote-address state …`.
fn parse(table: &str) -> Vec<SocketAddr> {
    let listener = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        (state == LISTEN).then(|| address(local)).flatten()
    };
    table.lines().skip(1).filter_map(listener).collect()
}

/// `0100007F:1F90`: words of four bytes in the machine's order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(words.concat().try_into().ok()?)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 1 1
   1: 00000000:3C78 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 2 1
   2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 65532        0 3 1
   3: 00000000000000000000000001000000:2382 00000000000000000000000000000000:0000 0A 0 0
   4: 00000000000000000000000000000000:2383 00000000000000000000000000000000:0000 0A 0 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_read() {
        let found: Vec<_> = parse(TABLE).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.1:8080", "0.0.0.0:15480", "[::1]:9090", "[::]:9091"]);
    }

    #[test]
    fn what_listens_instead_is_named() {
        let listeners = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (found, expected) in [
            (vec![], ": the pod listens on no port yet"),
            (vec!["0.0.0.0:15480"], ": the pod listens on no port yet"),
            (
                vec!["0.0.0.0:15480", "127.0.0.1:8080", "[::]:8080"],
                ": the pod listens on port 8080; is delivery.port right?",
            ),
            (vec!["127.0.0.1:8080", "[::]:81"], ": the pod listens on ports 81, 8080; is delivery.port right?"),
            (
                vec!["10.0.0.7:9999", "127.0.0.1:8080"],
                ": the pod listens on 10.0.0.7:9999 only; let the program listen on 127.0.0.1 or [::1]",
            ),
            (
                vec!["[::]:1", "[::]:2", "[::]:3", "[::]:4", "[::]:5", "[::]:6"],
                ": the pod listens on ports 1, 2, 3, 4, 5 and others; is delivery.port right?",
            ),
        ] {
            assert_eq!(describe(9999, PortName::Setting, &listeners(&found)), expected, "{found:?}");
        }
        for (named, remedy) in [
            (PortName::Setting, "is delivery.port right?"),
            (PortName::Container, "is that containerPort right? Else correct it, or set delivery.port"),
            (PortName::Probe, "is the port of the probe right?"),
        ] {
            let said = describe(9999, named, &listeners(&["127.0.0.1:8080"]));
            assert_eq!(said, format!(": the pod listens on port 8080; {remedy}"));
        }
    }

    #[tokio::test]
    async fn what_others_can_reach_is_told_from_loopback() {
        let local = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(reach(local.local_addr().unwrap().port()).await, Some(Reach::Loopback));
        assert_eq!(reach(0).await, None, "nothing listens on that");
        let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = open.local_addr().unwrap().port();
        assert_eq!(reach(port).await, Some(Reach::Exposed(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))));
    }

    /// As under a seccomp profile without that kind of socket, or in a sandbox whose kernel has none.
    #[tokio::test]
    async fn where_the_question_is_refused_the_tables_are_read() {
        let open: Vec<_> =
            ["127.0.0.1:0", "[::1]:0"].iter().map(|address| std::net::TcpListener::bind(address).unwrap()).collect();
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        let found = or_in_tables(Err(refused)).await;
        for listener in open {
            let address = listener.local_addr().unwrap();
            assert!(found.contains(&address), "{address} is not among {found:?}");
        }
    }

    proptest! {
        #[test]
        fn no_table_is_too_strange(table in "([ 0-9A-Fa-f:]{0,80}\n){0,5}|\\PC{0,200}") {
            let _ = parse(&table);
        }
    }
}
