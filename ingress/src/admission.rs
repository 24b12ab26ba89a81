//! Which request is taken on: the first thing that happens to it.
//!
//! Requests and the memory of their bodies are bounded, for all protocols together; beyond, a publisher is told to
//! come back rather than made to wait. Only a device with MQTT waits, for a short time: it cannot be told, and
//! whoever has to connect again is more work than who waits. (A check of the publisher's credentials belongs here
//! too, before anything of the body is read.)

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Limits;
use crate::problem::Problem;

/// The bounds and what is left of them.
pub struct Admission {
    requests: Arc<Semaphore>,
    memory_kib: Arc<Semaphore>,
    request_limit: usize,
}

/// A request that was taken on; its share is given back on drop.
pub struct Admitted {
    _request: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

impl Admission {
    /// Nothing taken yet. At least one request of the largest size always fits.
    pub fn new(limits: &Limits, request_limit: usize) -> Self {
        let memory_kib = limits.body_memory_kib.max(kib(request_limit));
        Self {
            requests: Arc::new(Semaphore::new(limits.requests)),
            memory_kib: Arc::new(Semaphore::new(usize::try_from(memory_kib).unwrap_or(usize::MAX))),
            request_limit,
        }
    }

    /// Takes a request on as soon as its share is free, within this time.
    ///
    /// # Errors
    /// There was too much to do for all of it.
    pub async fn admit_within(&self, length: usize, time: Duration) -> Result<Admitted, Problem> {
        let shares = async {
            // Always in this order, so that two that wait never wait for each other.
            let request = Arc::clone(&self.requests).acquire_owned().await;
            let memory_kib = kib(length.min(self.request_limit));
            (request, Arc::clone(&self.memory_kib).acquire_many_owned(memory_kib).await)
        };
        match timeout(time, shares).await {
            Ok((Ok(request), Ok(memory))) => Ok(Admitted { _request: request, _memory: memory }),
            _ => Err(Problem::overloaded()),
        }
    }

    /// Room for something that grows, nothing yet.
    pub fn room(&self) -> Room {
        Room { memory_kib: Arc::clone(&self.memory_kib), taken: None }
    }

    /// The largest body in bytes.
    pub fn request_limit(&self) -> usize {
        self.request_limit
    }

    /// Takes a request on, whose body has this many bytes (`None`: not known before its end).
    ///
    /// # Errors
    /// There is too much to do already.
    pub fn admit(&self, length: Option<u64>) -> Result<Admitted, Problem> {
        let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(self.request_limit);
        let memory_kib = kib(length.min(self.request_limit));
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| Problem::overloaded())?;
        let memory =
            Arc::clone(&self.memory_kib).try_acquire_many_owned(memory_kib).map_err(|_| Problem::overloaded())?;
        Ok(Admitted { _request: request, _memory: memory })
    }
}

/// The share of something that comes in pieces: it grows with it. Given back on drop.
pub struct Room {
    memory_kib: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Makes it as large as these bytes; none gives it back.
    ///
    /// # Errors
    /// There is no memory left.
    pub fn cover(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes == 0 {
            self.taken = None;
            return Ok(());
        }
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = kib(bytes).saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        if missing > 0 {
            let more = Arc::clone(&self.memory_kib).try_acquire_many_owned(missing);
            let more = more.map_err(|_| Problem::overloaded())?;
            match &mut self.taken {
                Some(taken) => taken.merge(more),
                None => self.taken = Some(more),
            }
        }
        Ok(())
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn admission() -> Admission {
        Admission::new(&Limits { requests: 2, body_memory_kib: 8, ..Limits::default() }, 6 * 1024)
    }

    #[test]
    fn requests_are_counted_and_given_back() {
        let admission = admission();
        let first = admission.admit(Some(0)).ok();
        let _second = admission.admit(Some(0)).ok().unwrap();
        assert_eq!(admission.admit(Some(0)).err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert!(admission.admit(Some(0)).is_ok());
    }

    #[test]
    fn the_memory_of_bodies_is_counted_and_an_unknown_length_is_the_largest() {
        let admission = admission();
        let _unknown = admission.admit(None).ok().unwrap();
        assert!(admission.admit(Some(2049)).is_err());
        assert!(admission.admit(Some(2048)).is_ok());
    }

    #[test]
    fn what_grows_takes_more_and_gives_all_back() {
        let admission = admission();
        let mut room = admission.room();
        assert!(room.cover(1).is_ok() && room.cover(5 * 1024).is_ok() && room.cover(2).is_ok());
        assert!(admission.admit(Some(3 * 1024 + 1)).is_err());
        assert!(room.cover(8 * 1024).is_ok() && room.cover(8 * 1024 + 1).is_err());
        assert!(room.cover(0).is_ok());
        assert!(admission.admit(None).is_ok());
    }

    #[tokio::test]
    async fn who_may_wait_is_taken_on_as_soon_as_there_is_room() {
        let admission = admission();
        let first = admission.admit(None).ok().unwrap();
        assert!(admission.admit_within(4096, Duration::from_millis(20)).await.is_err());
        let (second, ()) = tokio::join!(admission.admit_within(4096, Duration::from_secs(5)), async { drop(first) });
        assert!(second.is_ok());
    }
}
