//! Shares of what is bounded: those of a connection are within those of its client, and these within the whole. A
//! request also takes from the share of its topic.
//!
//! Whatever one connection, one client or one topic does, there is room left for another one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// The publisher, as far as it is known before anything is read.
///
/// An address of IPv6 counts as a whole: the pods of a node share a prefix in most clusters. [`Client::network`] is what
/// one alone may have many addresses of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A connection from this address.
    Address(IpAddr),
    /// A publisher over NATS, whose connections end at the broker: its subject.
    Publisher(String),
}

impl Client {
    /// The first 64 bits of an address of IPv6: whoever is given one address is given all that begin like it.
    pub fn network(&self) -> Option<u64> {
        match self {
            Self::Address(IpAddr::V6(address)) => u64::try_from(address.to_bits() >> 64).ok(),
            Self::Address(IpAddr::V4(_)) | Self::Publisher(_) => None,
        }
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

/// A number of requests and an amount of memory.
pub struct Share {
    requests: Arc<Semaphore>,
    memory_kib: Arc<Semaphore>,
    /// How much memory it has, taken or not.
    size_kib: AtomicU32,
    above: Option<Arc<Share>>,
}

/// All shares from which a request takes.
#[derive(Clone)]
pub struct Shares {
    /// That of its connection, and what that is within.
    connection: Arc<Share>,
    /// That of its topic; `None`: the topic may take the whole.
    topic: Option<Arc<Share>>,
}

/// What was taken of a share and of those above it; given back on drop.
pub type Permits = Vec<OwnedSemaphorePermit>;

impl Share {
    /// A share of this size, within another one.
    pub fn new(requests: usize, memory_kib: u32, above: Option<Arc<Self>>) -> Self {
        let size_kib = AtomicU32::new(memory_kib);
        let memory_kib = Arc::new(Semaphore::new(permits(memory_kib)));
        Self { requests: Arc::new(Semaphore::new(requests)), memory_kib, size_kib, above }
    }

    /// How much memory it has, in KiB.
    pub fn size_kib(&self) -> u32 {
        self.size_kib.load(Ordering::Relaxed)
    }

    /// Makes the memory as large as this, if it is smaller.
    pub fn grow(&self, kib: u32) {
        if self.size_kib() < kib {
            let before = self.size_kib.fetch_max(kib, Ordering::Relaxed);
            self.memory_kib.add_permits(permits(kib.saturating_sub(before)));
        }
    }

    /// Makes this one, and those it is within but for the whole, as large as this.
    pub fn grow_within(&self, kib: u32) {
        self.levels().filter(|share| share.above.is_some()).for_each(|share| share.grow(kib));
    }

    /// This share, and those it is within.
    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |share| share.above.as_deref())
    }
}

fn permits(kib: u32) -> usize {
    usize::try_from(kib).unwrap_or(Semaphore::MAX_PERMITS)
}

impl Shares {
    /// Those of a request over this connection for this topic.
    pub fn new(connection: Arc<Share>, topic: Option<Arc<Share>>) -> Self {
        Self { connection, topic }
    }

    /// From the inside out. The whole is the last: whatever waits for a share within it takes nothing of it yet.
    fn levels(&self) -> impl Iterator<Item = &Share> {
        let is_within = |share: &&Share| share.above.is_some();
        let whole = self.connection.levels().filter(move |share| !is_within(share));
        self.connection.levels().filter(is_within).chain(self.topic.as_deref()).chain(whole)
    }

    /// One request.
    ///
    /// # Errors
    /// There is none left.
    pub fn request(&self) -> Result<Permits, Problem> {
        self.levels()
            .map(|share| Arc::clone(&share.requests).try_acquire_owned())
            .collect::<Result<_, _>>()
            .map_err(busy)
    }

    /// One request, as soon as there is one.
    ///
    /// # Errors
    /// There will never be one.
    pub async fn next_request(&self) -> Result<Permits, Problem> {
        // Always from the inside out, so that two that wait never wait for each other.
        let mut permits = Permits::new();
        for share in self.levels() {
            permits.push(Arc::clone(&share.requests).acquire_owned().await.map_err(busy)?);
        }
        Ok(permits)
    }

    /// Some memory.
    ///
    /// # Errors
    /// There is not so much left.
    pub fn memory(&self, kib: u32) -> Result<Permits, Problem> {
        let take = |share: &Share| Arc::clone(&share.memory_kib).try_acquire_many_owned(kib);
        self.levels().map(take).collect::<Result<_, _>>().map_err(busy)
    }

    /// Some memory, as soon as there is so much.
    ///
    /// # Errors
    /// There will never be so much.
    pub async fn next_memory(&self, kib: u32) -> Result<Permits, Problem> {
        let mut permits = Permits::new();
        for share in self.levels() {
            permits.push(Arc::clone(&share.memory_kib).acquire_many_owned(kib).await.map_err(busy)?);
        }
        Ok(permits)
    }
}

fn busy<E>(_: E) -> Problem {
    Problem::overloaded()
}

/// The memory of something that comes in pieces: it grows with it. Given back on drop.
pub struct Room {
    shares: Shares,
    taken: Permits,
    kib: u32,
}

impl Room {
    /// Nothing yet.
    pub fn new(shares: Shares) -> Self {
        Self { shares, taken: Permits::new(), kib: 0 }
    }

    /// Makes it as large as these bytes; it does not shrink, but none gives all of it back.
    ///
    /// # Errors
    /// There is no memory left.
    pub fn cover(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes == 0 {
            self.taken.clear();
            self.kib = 0;
            return Ok(());
        }
        let missing = kib(bytes).saturating_sub(self.kib);
        if missing > 0 {
            let more = self.shares.memory(missing)?;
            if self.taken.is_empty() {
                self.taken = more;
            } else {
                self.taken.iter_mut().zip(more).for_each(|(taken, more)| taken.merge(more));
            }
            self.kib += missing;
        }
        Ok(())
    }
}

/// So many bytes in KiB, rounded up.
pub fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested() -> (Shares, Shares, Arc<Share>) {
        let whole = Arc::new(Share::new(3, 12, None));
        let inner = || Shares::new(Arc::new(Share::new(2, 8, Some(Arc::clone(&whole)))), None);
        (inner(), inner(), whole)
    }

    #[tokio::test]
    async fn a_topic_takes_no_more_than_its_share_and_nothing_of_the_whole_while_it_waits() {
        let whole = Arc::new(Share::new(3, 12, None));
        let topic = || Some(Arc::new(Share::new(1, 6, None)));
        let connection = || Arc::new(Share::new(3, 12, Some(Arc::clone(&whole))));
        let flood = Shares::new(connection(), topic());
        let other = Shares::new(connection(), topic());
        let held = flood.request().ok().unwrap();
        assert!(flood.request().is_err(), "its own bound");
        assert!(flood.memory(7).is_err() && flood.memory(6).is_ok());
        let mut waiting = Box::pin(flood.next_request());
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(whole.requests.available_permits(), 2, "what waits takes nothing of the whole");
        assert!(other.request().is_ok());
        drop(held);
        assert!(waiting.await.is_ok());
    }

    #[test]
    fn a_share_grows_and_never_shrinks() {
        let (whole, size) = (Arc::new(Share::new(1, 8, None)), |share: &Share| share.memory_kib.available_permits());
        let inner = Share::new(1, 4, Some(Arc::clone(&whole)));
        for (kib, expected) in [(6, 6), (2, 6), (7, 7)] {
            inner.grow_within(kib);
            assert_eq!((size(&inner), size(&whole)), (expected, 8), "{kib}");
        }
    }

    #[test]
    fn a_share_is_within_the_one_above() {
        let (first, second, whole) = nested();
        let held = [first.request(), first.request()];
        assert!(held.iter().all(Result::is_ok) && first.request().is_err(), "its own bound");
        let _third = second.request().ok().unwrap();
        assert!(second.request().is_err(), "the bound of the whole");
        drop(held);
        assert!(second.request().is_ok());
        assert_eq!(whole.requests.available_permits(), 2);
    }

    #[test]
    fn room_grows_and_gives_all_back() {
        let (first, second, whole) = nested();
        let mut room = Room::new(first);
        assert!(room.cover(1).is_ok() && room.cover(8 * 1024).is_ok() && room.cover(2).is_ok());
        assert!(room.cover(8 * 1024 + 1).is_err(), "its own bound");
        let mut other = Room::new(second);
        assert!(other.cover(4 * 1024 + 1).is_err(), "the bound of the whole");
        assert!(other.cover(4 * 1024).is_ok(), "what was refused took nothing");
        assert!(room.cover(0).is_ok());
        assert_eq!(whole.memory_kib.available_permits(), 8);
        drop(other);
        assert_eq!(whole.memory_kib.available_permits(), 12);
    }

    #[test]
    fn an_address_is_one_client_whichever_way_it_is_written() {
        let client = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("fd00::1"), client("fd00::2"));
        assert_eq!(client("fd00::1").network(), client("fd00::2").network());
        assert_ne!(client("fd00::1").network(), client("fd00:0:0:1::1").network());
        assert_eq!(client("::ffff:10.0.0.1").network(), None);
    }
}
