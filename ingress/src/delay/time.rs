//! The time at which an event is to be published. Pure.

use std::time::Duration;

use tidegate_broker_client::later::ATTRIBUTE;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::problem::Problem;

/// Longest text of a time that is read.
const MAX_TEXT: usize = 64;

/// The time at which an event is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryTime(OffsetDateTime);

impl DeliveryTime {
    /// From a timestamp of RFC 3339.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let parsed = Some(text).filter(|text| text.len() <= MAX_TEXT);
        let parsed = parsed.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        parsed.map(Self).ok_or_else(|| {
            Problem::invalid_delivery_time(format!(
                "{ATTRIBUTE} must be an RFC 3339 timestamp, for example \"2026-01-31T17:31:00Z\""
            ))
        })
    }

    /// Whether it is no more than this after now.
    ///
    /// # Errors
    /// It is further ahead.
    pub fn check(self, now: OffsetDateTime, max_delay: Duration) -> Result<(), Problem> {
        if self.0 - now <= max_delay {
            return Ok(());
        }
        Err(Problem::invalid_delivery_time(format!(
            "{ATTRIBUTE} is more than {} s ahead: choose an earlier time, or raise spec.delayedEvents.maxDelay of the \
             EventTopic",
            max_delay.as_secs()
        )))
    }

    /// As the broker's header says it (ADR-51). A time that is over is at once; the broker would take the year 1 for no
    /// time at all, and counts nanoseconds from 1970.
    pub fn schedule(self) -> Option<String> {
        let at = self.0.max(OffsetDateTime::UNIX_EPOCH).to_offset(time::UtcOffset::UTC);
        at.format(&Rfc3339).ok().map(|at| format!("@at {at}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(3600);

    fn schedule(text: &str) -> Option<String> {
        DeliveryTime::parse(text).ok()?.schedule()
    }

    #[test]
    fn what_is_a_time_is_said_in_the_words_of_the_broker() {
        for (text, expected) in [
            ("2026-01-31T17:31:00Z", "@at 2026-01-31T17:31:00Z"),
            ("2026-01-31t18:31:00.25+01:00", "@at 2026-01-31T17:31:00.25Z"),
            ("2026-01-31T17:31:00.123456789123Z", "@at 2026-01-31T17:31:00.123456789Z"),
            // A leap second, and what is long over.
            ("2016-12-31T23:59:60Z", "@at 2016-12-31T23:59:59.999999999Z"),
            ("0001-01-01T00:00:00Z", "@at 1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(schedule(text).as_deref(), Some(expected), "{text}");
        }
        let long = format!("2026-01-31T17:31:00.{}Z", "1".repeat(MAX_TEXT));
        for text in
            ["", "soon", "1769880660", "2026-01-31", "2026-01-31T17:31:00", "2026-02-30T00:00:00Z", "@every 1s", &long]
        {
            assert_eq!(schedule(text), None, "{text}");
        }
    }

    /// Our clock may be an hour before or behind: that moves the bound, and nothing else depends on it.
    #[test]
    fn only_the_bound_depends_on_our_clock() {
        let at = DeliveryTime::parse("2026-01-31T12:00:00Z").unwrap_or_else(|problem| panic!("{problem:?}"));
        let now = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{error}"));
        for (clock, is_taken) in [
            ("2026-01-31T11:00:00Z", true),
            ("2026-01-31T10:59:59Z", false),
            ("2026-01-31T12:59:59Z", true),
            ("2027-01-31T12:00:00Z", true),
            ("1970-01-01T00:00:00Z", false),
        ] {
            assert_eq!(at.check(now(clock), MAX).is_ok(), is_taken, "{clock}");
            assert_eq!(at.schedule().as_deref(), Some("@at 2026-01-31T12:00:00Z"));
        }
        let last = DeliveryTime::parse("9999-12-31T23:59:59Z").unwrap_or_else(|problem| panic!("{problem:?}"));
        assert!(last.check(now("0001-01-01T00:00:00Z"), MAX).is_err());
    }
}
