//! Ports for servers that do not exist yet.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below what Linux gives to outgoing connections and to port 0 (`ip_local_port_range`, from 32768): one of those
/// may be taken by any connection of any test between its choice and its use.
const RANGE: Range<u16> = 15_000..29_000;

/// A port that nobody has and that nobody else in this process gets.
///
/// # Panics
/// All are taken.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let length = u32::from(RANGE.end - RANGE.start);
    // Processes side by side begin in different places.
    let begin = std::process::id().wrapping_mul(7919) % length;
    for _ in 0..length {
        let place = (begin + TAKEN.fetch_add(1, Ordering::Relaxed)) % length;
        let port = RANGE.start + u16::try_from(place).expect("within the range");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nobody_gets_the_same() {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| [(); 50].map(|()| free_port()))).collect();
        let ports: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 200);
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }

    #[test]
    fn what_is_in_use_is_passed_over() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
        let port = held.local_addr().unwrap().port();
        assert!((0..20).all(|_| free_port() != port));
    }
}
