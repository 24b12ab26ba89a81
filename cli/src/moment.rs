//! Times on the command line.

use std::fmt;

use jiff::{SignedDuration, SpanRelativeTo, Timestamp};

/// A time as it is written. How long ago something was is for the clock that gave it its time, and not for this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This one.
    At(Timestamp),
    /// So long ago.
    Ago(SignedDuration),
}

impl Moment {
    /// The time that is meant. `now`: by the clock that it is measured with.
    pub fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => write!(f, "{time}"),
            Self::Ago(ago) => write!(f, "{ago:#}"),
        }
    }
}

/// A time, as RFC 3339 has it, or how long ago it was: `2026-01-31T12:00:00Z`, `90m`, `2h`, `7d`.
///
/// # Errors
/// It is neither, in words.
pub fn parse(text: &str) -> Result<Moment, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Moment::At(time));
    }
    let ago = text.parse::<jiff::Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let ago = ago.ok().filter(|ago| !ago.is_negative());
    ago.map(Moment::Ago)
        .ok_or_else(|| "expected a time such as 2026-01-31T12:00:00Z, or how long ago: 90m, 2h, 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_how_long_ago() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
            ("90m", "2026-01-31T10:30:00Z"),
            ("2h30m", "2026-01-31T09:30:00Z"),
            ("7d", "2026-01-24T12:00:00Z"),
            ("6000000d", "-009999-01-02T01:59:59Z"),
        ] {
            assert_eq!(parse(text).unwrap().before(now).to_string(), expected, "{text}");
        }
        for bad in ["", "yesterday", "-2h", "2", "1y"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
