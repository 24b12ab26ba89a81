//! How many forged tokens a client may show: some at once, and few a second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::share::Client;

/// Forged tokens that a client may show at once.
const BURST: u32 = 32;
/// After so long it may show one more.
const REFILL: Duration = Duration::from_millis(500);
/// Maximum number of clients that are remembered. What has been quiet for [`BURST`] times [`REFILL`] is forgotten.
const MAX_CLIENTS: usize = 4096;

/// The clients that showed forged tokens lately: until when each has used up what it may. A client with nothing on its
/// account is not there.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<Client, Instant>>);

/// A token that is being verified. It counts unless it is good.
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    client: &'a Client,
}

impl Attempts {
    /// A client shows a token; `None`: it has shown too many that were forged.
    pub fn begin<'a>(&'a self, client: &'a Client) -> Option<Attempt<'a>> {
        self.begin_at(client, Instant::now())
    }

    fn begin_at<'a>(&'a self, client: &'a Client, now: Instant) -> Option<Attempt<'a>> {
        let mut clients = self.lock();
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(client) {
            clients.retain(|_, until| *until > now);
            if clients.len() >= MAX_CLIENTS {
                return None;
            }
        }
        let until = clients.entry(client.clone()).or_insert(now);
        let next = (*until).max(now) + REFILL;
        if next.duration_since(now) > REFILL * BURST {
            return None;
        }
        *until = next;
        Some(Attempt { attempts: self, client })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Client, Instant>> {
        let Self(clients) = self;
        clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The token was good.
    pub fn succeeded(self) {
        let mut clients = self.attempts.lock();
        let Some(until) = clients.get_mut(self.client) else { return };
        match until.checked_sub(REFILL).filter(|until| *until > Instant::now()) {
            Some(less) => *until = less,
            None => drop(clients.remove(self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn client(last: u8) -> Client {
        IpAddr::from([10, 0, last, 1]).into()
    }

    #[test]
    fn a_client_may_show_some_forged_tokens_and_then_few() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let (forger, other) = (client(1), client(2));
        let taken = (0..100).filter(|_| attempts.begin_at(&forger, now).is_some()).count();
        assert_eq!(taken, 32);
        assert!(attempts.begin_at(&other, now).is_some(), "each has its own");
        let later = (0..100).filter(|_| attempts.begin_at(&forger, now + REFILL * 3).is_some()).count();
        assert_eq!(later, 3);
    }

    #[test]
    fn good_tokens_cost_nothing() {
        let (attempts, client) = (Attempts::default(), client(1));
        for _ in 0..1000 {
            attempts.begin(&client).unwrap().succeeded();
        }
        assert!(attempts.lock().is_empty());
        let forged = (0..20).filter(|_| attempts.begin(&client).is_some()).count();
        assert_eq!(forged, 20);
        for _ in 0..1000 {
            attempts.begin(&client).unwrap().succeeded();
        }
        assert_eq!(attempts.lock().len(), 1, "and forgive nothing");
    }

    #[test]
    fn clients_are_bounded_and_forgotten() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let name = |number: usize| Client::Publisher(number.to_string());
        for number in 0..MAX_CLIENTS {
            assert!(attempts.begin_at(&name(number), now).is_some());
        }
        assert!(attempts.begin_at(&name(MAX_CLIENTS), now).is_none());
        assert!(attempts.begin_at(&name(0), now).is_some(), "one that is there");
        assert!(attempts.begin_at(&name(MAX_CLIENTS), now + REFILL * 3).is_some());
        assert_eq!(attempts.lock().len(), 1);
    }
}
