//! Times on the command line.

use jiff::{SpanRelativeTo, Timestamp};

/// A time, as RFC 3339 has it, or how long ago it was: `2026-01-31T12:00:00Z`, `90m`, `2h`, `7d`.
///
/// # Errors
/// It is neither, in words.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, Timestamp::now())
}

fn parse_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = text.parse::<jiff::Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let ago = ago.ok().filter(|ago| !ago.is_negative()).and_then(|ago| now.checked_sub(ago).ok());
    ago.ok_or_else(|| "expected a time such as 2026-01-31T12:00:00Z, or how long ago: 90m, 2h, 7d".to_owned())
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
        ] {
            assert_eq!(parse_at(text, now).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", "yesterday", "-2h", "2", "99999999d", "1y"] {
            assert!(parse_at(bad, now).is_err(), "{bad}");
        }
    }
}
