//! Ports of loopback for programs that do not exist yet.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::Range;

use crate::failure::Failure;

/// Below what systems give to outgoing connections, which may take any of those between choice and use.
const RANGE: Range<u16> = 20_000..30_000;

/// So many different ports that nothing listens on, and that are none of `taken`.
///
/// # Errors
/// There are not so many.
pub fn free<const N: usize>(taken: &[u16]) -> Result<[u16; N], Failure> {
    let mut given: HashSet<u16> = taken.iter().copied().collect();
    // Two that start at the same time begin in different places.
    let begin = usize::from(fastrand::u16(RANGE) - RANGE.start);
    let mut ports = RANGE.cycle().skip(begin).take(RANGE.len());
    let mut next = || ports.find(|port| !is_used(*port) && given.insert(*port));
    let mut found = [0; N];
    for port in &mut found {
        *port = next().ok_or_else(|| Failure::Failed(format!("all ports from {} on are in use", RANGE.start)))?;
    }
    Ok(found)
}

/// Whether something listens on this port of this machine.
pub fn is_used(port: u16) -> bool {
    let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map(drop);
    let any6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map(drop);
    let own = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop);
    let taken =
        |bound: &std::io::Result<()>| bound.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
    taken(&any) || taken(&any6) || taken(&own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_free_and_different() {
        let ports = free::<20>(&[]).unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20);
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        assert!(is_used(ports[0]) && !is_used(ports[1]));
    }
}
