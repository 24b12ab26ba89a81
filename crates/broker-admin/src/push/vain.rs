//! Accounts that were pushed in vain, and when each is pushed again. Pure.
//!
//! Servers that store an account and do not serve it, or lack what it imports, mostly do after one more push. Where they
//! do not, a push at every look helps no more than a few, and disturbs those who subscribe meanwhile: so the pauses
//! between two of them grow, up to [`MAX_PAUSE`].

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::accounts::Account;

/// After the first push: doubled with each further one. A server that was loading the account has mostly loaded it by
/// then.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two pushes of the same. What a server serves meanwhile may let a key in that is refused: a minute
/// at most.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(60);
/// What was not pushed for so long is forgotten: its handler or topic may be gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * MAX_PAUSE.as_secs());

/// What was pushed and has not been seen in force since, by the ids of the accounts. It is as large as the number of accounts
/// that were pushed within [`FORGOTTEN_AFTER`] at most.
#[derive(Debug, Default)]
pub(super) struct Pushes(HashMap<String, Pushed>);

#[derive(Debug)]
struct Pushed {
    digest: [u8; 32],
    times: u32,
    last: Instant,
}

impl Pushed {
    fn pause(&self) -> Duration {
        MIN_PAUSE.saturating_mul(2_u32.saturating_pow(self.times.saturating_sub(1))).min(MAX_PAUSE)
    }
}

impl Pushes {
    /// How long the same account is not pushed again; `None`: it may be pushed.
    pub(super) fn pause(&self, account: &Account, now: Instant) -> Option<Duration> {
        let digest = account.claims.digest();
        let pushed = self.0.get(&account.id).filter(|pushed| pushed.digest == digest)?;
        let left = (pushed.last + pushed.pause()).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// It was pushed. Tells how often in a row.
    pub(super) fn note(&mut self, account: &Account, now: Instant) -> u32 {
        self.0.retain(|_, pushed| now.saturating_duration_since(pushed.last) < FORGOTTEN_AFTER);
        let digest = account.claims.digest();
        let before = self.0.get(&account.id).filter(|pushed| pushed.digest == digest);
        let times = before.map_or(1, |pushed| pushed.times.saturating_add(1));
        self.0.insert(account.id.clone(), Pushed { digest, times, last: now });
        times
    }

    /// It is in force, or gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::TopicId;
    use tidegate_broker_client::contract::Routing;
    use time::OffsetDateTime;

    use super::*;
    use crate::authority::Authority;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// The account of the ingresses, with so many topics.
    fn account(authority: &Authority, topics: usize) -> Account {
        let topic = |number| (TopicId::new("shop", format!("orders-{number}")).unwrap(), Routing::Queued);
        let topics: Vec<_> = (0..topics).map(topic).collect();
        authority.ingress_account(&topics, OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn the_pauses_between_pushes_of_the_same_grow_to_a_bound() {
        let authority = Authority::generate("test", OffsetDateTime::UNIX_EPOCH).unwrap();
        let (mut pushes, mut now) = (Pushes::default(), Instant::now());
        let one = account(&authority, 1);
        assert_eq!(pushes.pause(&one, now), None, "it was not pushed yet");
        let mut pauses = Vec::new();
        for times in 1..=13 {
            assert_eq!(pushes.note(&one, now), times);
            let pause = pushes.pause(&account(&authority, 1), now).unwrap();
            assert_eq!(pushes.pause(&one, now + pause - Duration::from_millis(1)), Some(Duration::from_millis(1)));
            assert_eq!(pushes.pause(&one, now + pause), None);
            now += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60]);
    }

    #[test]
    fn another_account_waits_for_none() {
        let authority = Authority::generate("test", OffsetDateTime::UNIX_EPOCH).unwrap();
        let (mut pushes, now) = (Pushes::default(), Instant::now());
        for _ in 0..5 {
            pushes.note(&account(&authority, 1), now);
        }
        assert_eq!(pushes.pause(&account(&authority, 2), now), None, "other claims");
        assert_eq!(pushes.note(&account(&authority, 2), now), 1);
        assert_eq!(pushes.pause(&account(&authority, 1), now), None);
        assert_eq!(pushes.pause(&account(&authority, 2), now), Some(seconds(1)));
        pushes.forget(&account(&authority, 2).id);
        assert_eq!(pushes.pause(&account(&authority, 2), now), None);
    }

    #[test]
    fn what_is_not_looked_at_any_more_is_forgotten() {
        let (mut pushes, now) = (Pushes::default(), Instant::now());
        for _ in 0..20 {
            let authority = Authority::generate("test", OffsetDateTime::UNIX_EPOCH).unwrap();
            pushes.note(&account(&authority, 1), now);
        }
        let last = account(&Authority::generate("test", OffsetDateTime::UNIX_EPOCH).unwrap(), 1);
        pushes.note(&last, now + FORGOTTEN_AFTER);
        assert_eq!(pushes.0.len(), 1);
    }
}
