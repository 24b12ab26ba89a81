//! Shares of what is bounded: those of a connection are within those of its client, and these within the whole.
//!
//! Whatever one connection or one client does, there is room left for another one.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// The publisher, as far as it is known before anything is read.
///
/// An address of IPv6 counts as a whole: the pods of a node share a prefix in most clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A connection from this address.
    Address(IpAddr),
    /// A publisher over NATS, whose connections end at the broker: its account.
    Account(String),
    /// One over NATS of which the broker says nothing.
    Unknown,
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
    above: Option<Arc<Share>>,
}

/// What was taken of a share and of those above it; given back on drop.
pub type Permits = Vec<OwnedSemaphorePermit>;

impl Share {
    /// A share of this size, within another one.
    pub fn new(requests: usize, memory_kib: u32, above: Option<Arc<Self>>) -> Self {
        let memory_kib = usize::try_from(memory_kib).unwrap_or(Semaphore::MAX_PERMITS);
        Self { requests: Arc::new(Semaphore::new(requests)), memory_kib: Arc::new(Semaphore::new(memory_kib)), above }
    }

    /// This share, and those it is within.
    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |share| share.above.as_deref())
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
        let take = |share: &Self| Arc::clone(&share.memory_kib).try_acquire_many_owned(kib);
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
    share: Arc<Share>,
    taken: Permits,
    kib: u32,
}

impl Room {
    /// Nothing yet.
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, taken: Permits::new(), kib: 0 }
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
            let more = self.share.memory(missing)?;
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

    fn nested() -> (Arc<Share>, Arc<Share>, Arc<Share>) {
        let whole = Arc::new(Share::new(3, 12, None));
        let inner = || Arc::new(Share::new(2, 8, Some(Arc::clone(&whole))));
        (inner(), inner(), whole)
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
    }
}
