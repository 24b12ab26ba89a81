//! Which request is taken on: the first thing that happens to it.
//!
//! Requests and the memory of their bodies are bounded; beyond, a publisher is told to come back rather than
//! made to wait. (A check of the publisher's credentials belongs here too, before anything of the body is read.)

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
}
