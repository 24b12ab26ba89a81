//! Which request is taken on: the first thing that happens to it.
//!
//! Requests and the memory of their bodies are bounded, for all protocols and topics together; beyond, a publisher is
//! asked to come back rather than made to wait. Memory is taken as a body arrives, so that what was only announced takes
//! none. A client (an address, or a publisher over NATS) has at most half of everything, a connection a quarter, and so
//! has a topic at most half as long as there are others, so that none of them can turn the others away. Only a device
//! with MQTT waits, for a short time: there is no answer that asks it to, and a device that has to connect again is more
//! work than one that waits. After that
//! [`crate::auth`] asks who the publisher is, before anything of the body is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::timeout;

use crate::config::{Limits, MAX_HEAD, request_limit};
use crate::problem::Problem;
use crate::share::{Client, Permits, Room, Share, Shares, kib};

/// The bounds and what is left of them.
pub struct Admission {
    whole: Arc<Share>,
    /// Of requests to topics that are not there.
    no_topic: TopicShare,
    requests: usize,
    clients: Mutex<HashMap<Client, Weak<Share>>>,
}

/// What a topic's requests may take.
pub struct TopicShare {
    /// `None`: the whole.
    share: Option<Arc<Share>>,
    /// The largest body in bytes.
    pub request_limit: usize,
}

/// A request that was taken on; its share is given back on drop.
pub struct Admitted {
    _request: Permits,
    /// The memory of it.
    pub room: Room,
}

impl Admission {
    /// Nothing taken yet.
    pub fn new(limits: &Limits) -> Self {
        let whole = Arc::new(Share::new(limits.requests, limits.body_memory_kib, None));
        let no_topic = TopicShare { share: None, request_limit: 0 };
        Self { whole, no_topic, requests: limits.requests, clients: Mutex::default() }
    }

    /// The share of a topic with events of this size at most: half of the whole, if there are others. At least one
    /// request of the largest size always fits, from each of two clients.
    pub fn topic(&self, max_event_size: usize, is_alone: bool) -> TopicShare {
        let request_limit = request_limit(max_event_size);
        let least_kib = least_kib(request_limit);
        self.whole.grow(least_kib.saturating_mul(2));
        let share = (!is_alone).then(|| Arc::new(self.part(2, least_kib, None)));
        TopicShare { share, request_limit }
    }

    /// The share of a topic that is not there: nothing of such a request is read but its head.
    pub fn no_topic(&self) -> &TopicShare {
        &self.no_topic
    }

    /// The share of a client: half of the whole. All its connections have the same one.
    pub fn client(&self, client: Client) -> Arc<Share> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = clients.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        // Those that have gone are forgotten here, so there are no more than there are connections.
        clients.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(self.part(2, 0, Some(&self.whole)));
        clients.insert(client, Arc::downgrade(&share));
        share
    }

    /// The share of a connection of a client: a quarter of the whole.
    pub fn connection(&self, client: Client) -> Arc<Share> {
        Arc::new(self.part(4, 0, Some(&self.client(client))))
    }

    fn part(&self, divisor: u8, least_kib: u32, above: Option<&Arc<Share>>) -> Share {
        let requests = (self.requests / usize::from(divisor)).max(1);
        let memory_kib = (self.whole.size_kib() / u32::from(divisor)).max(least_kib);
        Share::new(requests, memory_kib, above.cloned())
    }

    /// Takes a request on, of which this many bytes are there.
    ///
    /// # Errors
    /// There is too much to do already.
    pub fn admit(&self, share: &Arc<Share>, topic: &TopicShare, bytes: usize) -> Result<Admitted, Problem> {
        let shares = topic.with(share);
        let request = shares.request()?;
        let mut room = Room::new(shares);
        room.cover(bytes)?;
        Ok(Admitted { _request: request, room })
    }

    /// Takes a request on that has arrived completely, as soon as there is room for it, within this time.
    ///
    /// # Errors
    /// There was too much to do for all of it.
    pub async fn admit_within(
        &self,
        share: &Arc<Share>,
        topic: &TopicShare,
        bytes: usize,
        time: Duration,
    ) -> Result<Admitted, Problem> {
        let shares = topic.with(share);
        let waiting = async {
            let mut request = shares.next_request().await?;
            request.extend(shares.next_memory(kib(bytes.min(topic.request_limit))).await?);
            Ok(Admitted { _request: request, room: Room::new(shares.clone()) })
        };
        timeout(time, waiting).await.unwrap_or_else(|_| Err(Problem::overloaded()))
    }
}

impl TopicShare {
    /// Whether it is what [`Admission::topic`] gives now.
    pub fn is_for(&self, max_event_size: usize, is_alone: bool) -> bool {
        self.request_limit == request_limit(max_event_size) && self.share.is_none() == is_alone
    }

    /// Together with that of a connection. The largest request of the topic fits into each.
    pub fn with(&self, connection: &Arc<Share>) -> Shares {
        connection.grow_within(least_kib(self.request_limit));
        Shares::new(Arc::clone(connection), self.share.clone())
    }
}

/// What a request of this size takes.
fn least_kib(request_limit: usize) -> u32 {
    kib(request_limit.saturating_add(MAX_HEAD))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::StatusCode;

    use super::*;

    /// With a topic that is alone, of which a head and a body of the largest size are 144 KiB.
    fn admission() -> (Admission, TopicShare) {
        let admission = Admission::new(&Limits { requests: 4, body_memory_kib: 0, ..Limits::default() });
        let topic = admission.topic(6 * 1024, true);
        (admission, topic)
    }

    #[test]
    fn a_topic_has_half_as_long_as_there_are_others() {
        let (admission, alone) = admission();
        let [flood, other] = [(); 2].map(|()| admission.topic(6 * 1024, false));
        let from = |last, topic: &TopicShare| admission.admit(&admission.connection(client(last)), topic, 1);
        let held = [from(1, &flood), from(2, &flood)];
        assert!(held.iter().all(Result::is_ok) && from(3, &flood).is_err(), "half");
        let kept = [from(3, &other), from(4, &other)];
        assert!(kept.iter().all(Result::is_ok), "and half for others");
        drop((held, kept));
        let all = [1, 2, 3, 4].map(|last| from(last, &alone));
        assert!(all.iter().all(Result::is_ok), "all of it where there is no other");
    }

    #[test]
    fn a_topic_with_larger_events_than_all_before_has_room_for_them() {
        let (admission, small) = admission();
        let (share, other) = (admission.connection(client(1)), admission.connection(client(2)));
        assert!(admission.admit(&share, &small, 1).is_ok());
        let large = admission.topic(1 << 20, false);
        let mut largest = admission.admit(&share, &large, 1).ok().unwrap();
        assert!(largest.room.cover(large.request_limit + MAX_HEAD).is_ok());
        assert!(admission.admit(&other, &large, 1).is_err(), "the topic has half of it");
        assert!(admission.admit(&other, &small, 1).is_ok());
    }

    fn client(last: u8) -> Client {
        IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn requests_are_counted_and_given_back() {
        let (admission, topic) = admission();
        let share = admission.client(client(1));
        let first = admission.admit(&share, &topic, 0).ok();
        let _second = admission.admit(&share, &topic, 0).ok().unwrap();
        assert_eq!(admission.admit(&share, &topic, 0).err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert!(admission.admit(&share, &topic, 0).is_ok());
    }

    #[test]
    fn a_connection_has_a_quarter_a_client_half_and_others_have_the_rest() {
        let (admission, topic) = admission();
        let connections = [(); 3].map(|()| admission.connection(client(1)));
        let first = admission.admit(&connections[0], &topic, 1).ok().unwrap();
        assert!(admission.admit(&connections[0], &topic, 1).is_err(), "a quarter");
        let second = admission.admit(&connections[1], &topic, 1).ok().unwrap();
        assert!(admission.admit(&connections[2], &topic, 1).is_err(), "half");
        let other = admission.connection(client(2));
        assert!(admission.admit(&other, &topic, 1).is_ok());
        drop((first, second));
        assert!(admission.admit(&connections[2], &topic, 1).is_ok());
    }

    #[test]
    fn the_largest_request_of_one_client_leaves_room_for_that_of_another() {
        let (admission, topic) = admission();
        let largest = topic.request_limit + MAX_HEAD;
        let mut first = admission.admit(&admission.connection(client(1)), &topic, 1).ok().unwrap();
        assert!(first.room.cover(largest).is_ok());
        assert!(admission.admit(&admission.connection(client(1)), &topic, 1).is_err());
        let mut other = admission.admit(&admission.connection(client(2)), &topic, 1).ok().unwrap();
        assert!(other.room.cover(largest).is_ok() && other.room.cover(largest + 1).is_err());
    }

    #[test]
    fn clients_that_have_gone_are_forgotten() {
        let (admission, _) = admission();
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
        let (admission, topic) = admission();
        let share = admission.connection(client(1));
        let first = admission.admit(&share, &topic, 1).ok().unwrap();
        assert!(admission.admit_within(&share, &topic, 4096, Duration::from_millis(20)).await.is_err());
        let waiting = admission.admit_within(&share, &topic, 4096, Duration::from_secs(5));
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert!(second.is_ok());
    }
}
