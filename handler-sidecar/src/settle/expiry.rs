//! Whether an event is too old to be delivered. Pure.
//!
//! Its age is the time since it was stored: the broker's clock tells when that was, the sidecar's what time it is. A
//! sidecar whose clock is ahead of the broker's takes events for that much older than they are; one whose clock is
//! behind delivers them for that much longer. An event that was stored in what is the future here has no age.

use std::time::{Duration, SystemTime};

use tidegate_broker_client::contract::Expiry;

/// The age of an event that is too old; `None`: it is not. `published_at` is when the topic stored it, in nanoseconds
/// since 1970.
pub fn excess_age(expiry: Expiry, published_at: u64, now: SystemTime) -> Option<Duration> {
    let published_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(published_at);
    now.duration_since(published_at).ok().filter(|age| *age > expiry.max_age)
}

/// Why the event is not delivered.
pub fn explain(expiry: Expiry, age: Duration) -> String {
    let (age, max_age) = (age.as_secs_f64(), expiry.max_age.as_secs_f64());
    format!("the event was stored {age:.1} s ago, and delivery.maxEventAge is {max_age} s")
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::contract::OnExpired;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn age(max_age: Duration, published_at: SystemTime, now: SystemTime) -> Option<Duration> {
        let published_at = published_at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        excess_age(Expiry { max_age, on_expired: OnExpired::Skip }, u64::try_from(published_at).unwrap(), now)
    }

    #[test]
    fn an_event_is_too_old_from_its_bound_on() {
        let stored = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        let nanosecond = Duration::from_nanos(1);
        for (waited, expected) in [
            (Duration::ZERO, None),
            (MINUTE, None),
            (MINUTE + nanosecond, Some(MINUTE + nanosecond)),
            (10_000 * HOUR, Some(10_000 * HOUR)),
        ] {
            assert_eq!(age(MINUTE, stored, stored + waited), expected, "{waited:?}");
        }
    }

    /// An hour, on either side: what lasts for longer than that is only inexact, what is shorter than that is off.
    #[test]
    fn clocks_that_differ_by_an_hour_shift_the_bound_by_an_hour() {
        let stored = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        let (ahead, behind) = (|waited| stored + waited + HOUR, |waited| stored + waited - HOUR);
        assert_eq!(age(MINUTE, stored, ahead(Duration::ZERO)), Some(HOUR), "at once");
        assert_eq!(age(3 * HOUR, stored, ahead(HOUR)), None);
        assert_eq!(age(3 * HOUR, stored, ahead(2 * HOUR + MINUTE)), Some(3 * HOUR + MINUTE), "an hour too early");
        assert_eq!(age(MINUTE, stored, behind(Duration::ZERO)), None, "it is stored in the future");
        assert_eq!(age(MINUTE, stored, behind(HOUR + MINUTE)), None);
        assert_eq!(age(MINUTE, stored, behind(HOUR + 2 * MINUTE)), Some(2 * MINUTE), "an hour too late");
    }
}
