//! The connections of a listener: so many at a time, half of them from one client, and three quarters from one network
//! of IPv6.
//!
//! Where there is no room, the connection makes some that has been of no use for the longest time, if it has been
//! that for long enough. So connections that only exist cannot keep those out that bring events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::share::Client;

/// The connections of a listener.
pub struct Slots {
    limit: usize,
    /// How long a connection must have been of no use to make room.
    unused: Duration,
    started: Instant,
    stop: CancellationToken,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    slots: BTreeMap<u64, (Client, Arc<Seat>)>,
}

/// Why a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The program ends.
    Leaving,
    /// Others need the room.
    MakeRoom,
    /// The same client has come by another connection.
    TakenOver,
}

/// What others know of a connection.
pub struct Seat {
    stop: CancellationToken,
    end: OnceLock<End>,
    /// When the listener started.
    started: Instant,
    /// Milliseconds since then.
    used: AtomicU64,
}

/// The room of a connection; given back on drop.
pub struct Slot {
    /// The client that the connection belongs to.
    pub client: Client,
    seat: Arc<Seat>,
    number: u64,
    slots: Arc<Slots>,
}

/// What happens with a new connection.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Take,
    /// Another one ends for it.
    InPlaceOf(u64),
    Busy,
}

impl Slots {
    /// So many, all free; all of them end with `stop`.
    pub fn new(limit: usize, unused: Duration, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { limit, unused, started: Instant::now(), stop, open: Mutex::default() })
    }

    /// Room for a connection of this client; `None` if there is none.
    pub fn take(self: &Arc<Self>, client: Client) -> Option<Slot> {
        let now = milliseconds(self.started);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let others = open.slots.iter().map(|(number, (client, seat))| {
            (*number, client, Duration::from_millis(now.saturating_sub(seat.used.load(Ordering::Relaxed))))
        });
        let decision = decide(others, &client, self.limit, self.unused);
        match decision {
            Decision::Busy => return None,
            Decision::InPlaceOf(number) => {
                if let Some((_, seat)) = open.slots.remove(&number) {
                    seat.end(End::MakeRoom);
                }
            }
            Decision::Take => {}
        }
        let (stop, started) = (self.stop.child_token(), self.started);
        let seat = Arc::new(Seat { stop, end: OnceLock::new(), started, used: AtomicU64::new(now) });
        let number = open.next;
        open.next += 1;
        open.slots.insert(number, (client.clone(), Arc::clone(&seat)));
        Some(Slot { client, seat, number, slots: Arc::clone(self) })
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `others` are the open connections: number, client, and for how long each has been of no use.
fn decide<'a>(
    others: impl Iterator<Item = (u64, &'a Client, Duration)> + Clone,
    client: &Client,
    limit: usize,
    unused: Duration,
) -> Decision {
    let own = |other: &(u64, &Client, Duration)| other.1 == client;
    let network = client.network();
    let near = |other: &(u64, &Client, Duration)| network.is_some() && other.1.network() == network;
    let longest = |others: &mut dyn Iterator<Item = (u64, &'a Client, Duration)>| {
        let most = others.max_by_key(|(_, _, idle)| *idle);
        match most {
            Some((number, _, idle)) if idle >= unused => Decision::InPlaceOf(number),
            _ => Decision::Busy,
        }
    };
    if others.clone().filter(own).count() >= (limit / 2).max(1) {
        longest(&mut others.filter(own))
    } else if others.clone().filter(near).count() >= (limit - limit / 4).max(1) {
        longest(&mut others.filter(near))
    } else if others.clone().count() >= limit {
        longest(&mut others.clone())
    } else {
        Decision::Take
    }
}

impl Seat {
    /// Ends the connection after what is in progress.
    pub fn end(&self, end: End) {
        // The first reason counts.
        let _ = self.end.set(end);
        self.stop.cancel();
    }

    /// The connection was of use.
    pub fn used(&self) {
        self.used.store(milliseconds(self.started), Ordering::Relaxed);
    }
}

impl Slot {
    /// Waits until the connection is to end.
    pub async fn ending(&self) {
        self.seat.stop.cancelled().await;
    }

    /// Why it is to end.
    pub fn end(&self) -> End {
        self.seat.end.get().copied().unwrap_or(End::Leaving)
    }

    /// What others may know of it.
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open.lock().unwrap_or_else(PoisonError::into_inner).slots.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn client(last: u8) -> Client {
        IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn room_is_for_those_that_need_it() {
        let minute = Duration::from_secs(60);
        let decide = |others: &[(u8, u64)], new: u8| {
            let others: Vec<_> = others.iter().map(|(who, idle)| (client(*who), Duration::from_secs(*idle))).collect();
            let others = others.iter().zip(0..).map(|((client, idle), number)| (number, client, *idle));
            decide(others, &client(new), 4, minute)
        };
        assert_eq!(decide(&[], 1), Decision::Take);
        assert_eq!(decide(&[(1, 0), (2, 0), (3, 0)], 1), Decision::Take);
        assert_eq!(decide(&[(1, 0), (1, 59)], 1), Decision::Busy, "half for one client");
        assert_eq!(decide(&[(1, 0), (1, 59)], 2), Decision::Take, "and half for others");
        assert_eq!(decide(&[(1, 0), (1, 60)], 1), Decision::InPlaceOf(1));
        assert_eq!(decide(&[(1, 61), (2, 62), (2, 99), (1, 60)], 1), Decision::InPlaceOf(0), "its own");
        assert_eq!(decide(&[(1, 61), (2, 0), (2, 99), (3, 60)], 4), Decision::InPlaceOf(2), "the longest");
        assert_eq!(decide(&[(1, 0), (2, 0), (2, 59), (3, 0)], 4), Decision::Busy);
    }

    /// Whoever has one address of IPv6 has 2^64 of them.
    #[test]
    fn a_network_of_ipv6_leaves_a_quarter_to_others() {
        let named = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
        let minute = Duration::from_secs(60);
        let held = |idle: u64| {
            let clients =
                ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4:0:0:0", "2001:db8::5", "2001:db8::6"];
            clients.map(|text| (named(text), Duration::from_secs(idle)))
        };
        let decide = |held: &[(Client, Duration)], new: &str| {
            let others = held.iter().zip(0..).map(|((client, idle), number)| (number, client, *idle));
            decide(others, &named(new), 8, minute)
        };
        assert_eq!(decide(&held(0)[..5], "2001:db8::7"), Decision::Take);
        assert_eq!(decide(&held(0), "2001:db8::7"), Decision::Busy);
        assert_eq!(decide(&held(60), "2001:db8::7"), Decision::InPlaceOf(5), "its own");
        assert_eq!(decide(&held(0), "2001:db8:0:1::7"), Decision::Take, "another network");
        assert_eq!(decide(&held(0), "192.0.2.7"), Decision::Take, "another protocol");
        let addresses: Vec<_> = (0..6).map(|last| (client(last), Duration::ZERO)).collect();
        assert_eq!(decide(&addresses, "10.0.0.9"), Decision::Take, "addresses of IPv4 are few");
    }

    #[test]
    fn what_makes_room_is_ended_and_what_ends_gives_its_room_back() {
        let stop = CancellationToken::new();
        let slots = Slots::new(2, Duration::ZERO, stop.clone());
        let first = slots.take(client(1)).unwrap();
        let second = slots.take(client(1)).unwrap();
        assert!(first.seat.stop.is_cancelled() && !second.seat.stop.is_cancelled());
        assert_eq!(first.end(), End::MakeRoom);
        drop(first);
        assert_eq!(slots.open.lock().unwrap().slots.len(), 1, "it had given its room back before");
        let third = slots.take(client(2)).unwrap();
        drop(second);
        assert_eq!(slots.open.lock().unwrap().slots.len(), 1);
        stop.cancel();
        assert!(third.seat.stop.is_cancelled());
        assert_eq!(third.end(), End::Leaving);
    }
}
