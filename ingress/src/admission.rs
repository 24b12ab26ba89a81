//! Which request is taken on: the first thing that happens to it.
//!
//! Requests and the memory of their bodies are bounded, for all protocols together; beyond, a publisher is asked to
//! come back rather than made to wait. Memory is taken as a body arrives, so that what was only announced takes none. A
//! client (an address, or the account of a publisher over NATS) has at most half of everything, a connection a quarter,
//! so that none of them can turn the others away. Only a device with MQTT waits, for a short time: there is no answer
//! that asks it to, and a device that has to connect again is more work than one that waits. (A check of the
//! publisher's credentials belongs here too, before anything of the body is read.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::timeout;

use crate::config::{Limits, MAX_HEAD};
use crate::problem::Problem;
use crate::share::{Client, Permits, Room, Share, kib};

/// The bounds and what is left of them.
pub struct Admission {
    whole: Arc<Share>,
    requests: usize,
    memory_kib: u32,
    /// What the largest request takes: every share has as much.
    least_kib: u32,
    clients: Mutex<HashMap<Client, Weak<Share>>>,
    request_limit: usize,
}

/// A request that was taken on; its share is given back on drop.
pub struct Admitted {
    _request: Permits,
    /// The memory of it.
    pub room: Room,
}

impl Admission {
    /// Nothing taken yet. At least one request of the largest size always fits, from each of two clients.
    pub fn new(limits: &Limits, request_limit: usize) -> Self {
        let least_kib = kib(request_limit.saturating_add(MAX_HEAD));
        let memory_kib = limits.body_memory_kib.max(least_kib.saturating_mul(2));
        let whole = Arc::new(Share::new(limits.requests, memory_kib, None));
        let clients = Mutex::default();
        Self { whole, requests: limits.requests, memory_kib, least_kib, clients, request_limit }
    }

    /// The share of a client: half of the whole. All its connections have the same one.
    pub fn client(&self, client: Client) -> Arc<Share> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = clients.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        // Those that have gone are forgotten here, so there are no more than there are connections.
        clients.retain(|_, share| share.strong_count() > 0);
        let share = self.part(2, &self.whole);
        clients.insert(client, Arc::downgrade(&share));
        share
    }

    /// The share of a connection of a client: a quarter of the whole.
    pub fn connection(&self, client: Client) -> Arc<Share> {
        self.part(4, &self.client(client))
    }

    fn part(&self, divisor: u8, above: &Arc<Share>) -> Arc<Share> {
        let requests = (self.requests / usize::from(divisor)).max(1);
        let memory_kib = (self.memory_kib / u32::from(divisor)).max(self.least_kib);
        Arc::new(Share::new(requests, memory_kib, Some(Arc::clone(above))))
    }

    /// The largest body in bytes.
    pub fn request_limit(&self) -> usize {
        self.request_limit
    }

    /// Takes a request on, of which this many bytes are there.
    ///
    /// # Errors
    /// There is too much to do already.
    pub fn admit(&self, share: &Arc<Share>, bytes: usize) -> Result<Admitted, Problem> {
        let request = share.request()?;
        let mut room = Room::new(Arc::clone(share));
        room.cover(bytes)?;
        Ok(Admitted { _request: request, room })
    }

    /// Takes a request on that has arrived completely, as soon as there is room for it, within this time.
    ///
    /// # Errors
    /// There was too much to do for all of it.
    pub async fn admit_within(&self, share: &Arc<Share>, bytes: usize, time: Duration) -> Result<Admitted, Problem> {
        let waiting = async {
            let mut request = share.next_request().await?;
            request.extend(share.next_memory(kib(bytes.min(self.request_limit))).await?);
            Ok(Admitted { _request: request, room: Room::new(Arc::clone(share)) })
        };
        timeout(time, waiting).await.unwrap_or_else(|_| Err(Problem::overloaded()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::StatusCode;

    use super::*;

    fn admission() -> Admission {
        // A head and a body of the largest size are 86 KiB.
        Admission::new(&Limits { requests: 4, body_memory_kib: 0, ..Limits::default() }, 6 * 1024)
    }

    fn client(last: u8) -> Client {
        IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn requests_are_counted_and_given_back() {
        let admission = admission();
        let share = admission.client(client(1));
        let first = admission.admit(&share, 0).ok();
        let _second = admission.admit(&share, 0).ok().unwrap();
        assert_eq!(admission.admit(&share, 0).err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert!(admission.admit(&share, 0).is_ok());
    }

    #[test]
    fn a_connection_has_a_quarter_a_client_half_and_others_have_the_rest() {
        let admission = admission();
        let connections = [(); 3].map(|()| admission.connection(client(1)));
        let first = admission.admit(&connections[0], 1).ok().unwrap();
        assert!(admission.admit(&connections[0], 1).is_err(), "a quarter");
        let second = admission.admit(&connections[1], 1).ok().unwrap();
        assert!(admission.admit(&connections[2], 1).is_err(), "half");
        let other = admission.connection(client(2));
        assert!(admission.admit(&other, 1).is_ok());
        drop((first, second));
        assert!(admission.admit(&connections[2], 1).is_ok());
    }

    #[test]
    fn the_largest_request_of_one_client_leaves_room_for_that_of_another() {
        let admission = admission();
        let largest = admission.request_limit() + MAX_HEAD;
        let mut first = admission.admit(&admission.connection(client(1)), 1).ok().unwrap();
        assert!(first.room.cover(largest).is_ok());
        assert!(admission.admit(&admission.connection(client(1)), 1).is_err());
        let mut other = admission.admit(&admission.connection(client(2)), 1).ok().unwrap();
        assert!(other.room.cover(largest).is_ok() && other.room.cover(largest + 1).is_err());
    }

    #[test]
    fn clients_that_have_gone_are_forgotten() {
        let admission = admission();
        for last in 0..=255 {
            admission.connection(client(last));
        }
        let kept = admission.client(client(1));
        assert!(Arc::ptr_eq(&kept, &admission.client(client(1))));
        admission.client(client(2));
        assert_eq!(admission.clients.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_device_may_wait_and_is_taken_on_as_soon_as_there_is_room() {
        let admission = admission();
        let share = admission.connection(client(1));
        let first = admission.admit(&share, 1).ok().unwrap();
        assert!(admission.admit_within(&share, 4096, Duration::from_millis(20)).await.is_err());
        let waiting = admission.admit_within(&share, 4096, Duration::from_secs(5));
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert!(second.is_ok());
    }
}
