//! What a call asks for: the part of its address after `?` (pure).

use std::time::Duration;

use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Events or dead letters in a page, where that is not said.
const DEFAULT_LIMIT: usize = 100;
/// The same at most.
const MAX_LIMIT: usize = 500;
/// How long a watch takes: less than the minute after which the API server ends a call for a subresource.
const MAX_WATCH: u64 = 50;
/// Sequences in a call at most.
const MAX_SEQUENCES: usize = 500;
/// Parameters in a call at most.
const MAX_PAIRS: usize = MAX_SEQUENCES + 16;

/// The parameters, decoded.
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Those of an address.
    pub fn parse(query: Option<&str>) -> Self {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(pairs.take(MAX_PAIRS).map(pair).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter says true.
    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let number = self.get(name).map(|value| value.parse::<u64>().map_err(|_| format!("{name} must be a number")));
        number.transpose()
    }

    fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, String> {
        let time = self.get(name).map(|value| {
            OffsetDateTime::parse(value, &Rfc3339)
                .map_err(|error| format!("{name} must be a time such as 2026-01-31T12:00:00Z: {error}"))
        });
        time.transpose()
    }

    fn limit(&self) -> Result<usize, String> {
        let limit = self.number("limit")?.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(MAX_LIMIT));
        if (1..=MAX_LIMIT).contains(&limit) {
            Ok(limit)
        } else {
            Err(format!("limit must be 1 to {MAX_LIMIT}: continue with the token of metadata.continue"))
        }
    }

    /// No parameter that nobody looks at: a misspelt filter must not show everything.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => Err(format!("there is no parameter {name:?}: those are {}", known.join(", "))),
        }
    }

    /// The dead letters that are named by `sequence`, one or more.
    ///
    /// # Errors
    /// In words.
    pub fn sequences(&self) -> Result<Vec<u64>, String> {
        self.only(&["sequence"])?;
        let parse = |value: &str| value.parse().map_err(|_| format!("sequence {value:?} must be a number"));
        let mut all = self.0.iter().map(|(_, value)| parse(value)).collect::<Result<Vec<u64>, String>>()?;
        all.sort_unstable();
        all.dedup();
        if all.is_empty() || all.len() > MAX_SEQUENCES {
            return Err(format!("name 1 to {MAX_SEQUENCES} dead letters by sequence=N"));
        }
        Ok(all)
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// With which event an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStart {
    /// The first from this sequence on.
    Sequence(u64),
    /// So many before the end.
    Last(u64),
    /// The first that was stored at this time or later.
    Since(OffsetDateTime),
}

/// Which events are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Where to begin.
    pub start: EventStart,
    /// Events in a page.
    pub limit: usize,
    /// How long a watch takes.
    pub timeout: Duration,
}

impl EventQuery {
    /// From the parameters.
    ///
    /// # Errors
    /// In words.
    pub fn parse(pairs: &Pairs) -> Result<Self, String> {
        pairs.only(&["fromSequence", "last", "since", "limit", "continue", "watch", "timeoutSeconds"])?;
        let from = pairs.number("continue")?.or(pairs.number("fromSequence")?);
        let (last, since) = (pairs.number("last")?, pairs.time("since")?);
        let start = match (from, last, since) {
            (Some(from), ..) => EventStart::Sequence(from),
            (None, Some(last), None) => EventStart::Last(last),
            (None, None, Some(since)) => EventStart::Since(since),
            (None, Some(_), Some(_)) => return Err("say either last or since".to_owned()),
            // A watch is of what comes.
            (None, None, None) if pairs.is_true("watch") => EventStart::Last(0),
            (None, None, None) => EventStart::Sequence(1),
        };
        let timeout = pairs.number("timeoutSeconds")?.unwrap_or(MAX_WATCH).clamp(1, MAX_WATCH);
        Ok(Self { start, limit: pairs.limit()?, timeout: Duration::from_secs(timeout) })
    }
}

/// Which dead letters are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterQuery {
    /// The first sequence.
    pub from: u64,
    /// Letters in a page.
    pub limit: usize,
    /// Only events of one of these types, or of the types beneath a prefix (`order.*`). Empty: all.
    pub types: Vec<String>,
    /// Only those with this reason.
    pub reason: Option<String>,
    /// Only what became a dead letter at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Only what became one before.
    pub until: Option<OffsetDateTime>,
    /// Only those with this text in an attribute, the last error or the data.
    pub text: Option<String>,
    /// Whether the events' data is shown.
    pub with_data: bool,
}

impl LetterQuery {
    /// From the parameters.
    ///
    /// # Errors
    /// In words.
    pub fn parse(pairs: &Pairs) -> Result<Self, String> {
        pairs.only(&["type", "reason", "since", "until", "text", "data", "limit", "continue"])?;
        let text = |name: &str| pairs.get(name).map(str::to_owned);
        Ok(Self {
            from: pairs.number("continue")?.unwrap_or(1),
            limit: pairs.limit()?,
            types: text("type").into_iter().collect(),
            reason: text("reason"),
            since: pairs.time("since")?,
            until: pairs.time("until")?,
            text: text("text"),
            with_data: pairs.is_true("data"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(query: &str) -> Result<EventQuery, String> {
        EventQuery::parse(&Pairs::parse(Some(query)))
    }

    #[test]
    fn an_answer_begins_where_it_is_said() {
        for (query, start) in [
            ("", EventStart::Sequence(1)),
            ("watch=true", EventStart::Last(0)),
            ("watch=true&fromSequence=7", EventStart::Sequence(7)),
            ("fromSequence=3", EventStart::Sequence(3)),
            ("last=5", EventStart::Last(5)),
            ("last=5&continue=9", EventStart::Sequence(9)),
            ("since=1970-01-01T00%3A00%3A00Z", EventStart::Since(OffsetDateTime::UNIX_EPOCH)),
        ] {
            assert_eq!(events(query).unwrap().start, start, "{query}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_words() {
        for (query, said) in [
            ("limit=0", "1 to 500"),
            ("limit=501", "1 to 500"),
            ("limit=x", "a number"),
            ("continue=-1", "a number"),
            ("since=yesterday", "2026-01-31T12:00:00Z"),
            ("last=1&since=1970-01-01T00:00:00Z", "either"),
            ("limits=1", "no parameter"),
        ] {
            assert!(events(query).unwrap_err().contains(said), "{query}");
        }
        let letters = LetterQuery::parse(&Pairs::parse(Some("typ=a")));
        assert!(letters.unwrap_err().contains("no parameter \"typ\""));
    }

    #[test]
    fn dead_letters_are_dropped_by_their_numbers_only() {
        let sequences = |query: &str| Pairs::parse(Some(query)).sequences();
        assert_eq!(sequences("sequence=2&sequence=1&sequence=2").unwrap(), [1, 2]);
        for bad in ["", "sequence=", "sequence=a", "all=true"] {
            assert!(sequences(bad).is_err(), "{bad}");
        }
    }
}
