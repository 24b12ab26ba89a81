//! `tidegate dead drop`.

use std::io::Write;

use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Filter, letters};
use crate::failure::Failure;
use crate::output::{self, print};
use crate::stored::{Api, Stored, parse, raw, with_query};

/// Sequences in a call: its address is bounded.
const MAX_NAMED: usize = 100;

/// Which letters are dropped.
#[derive(Debug)]
pub enum Choice {
    /// Those with these sequences.
    Named(Vec<u64>),
    /// Those that this finds.
    Found(Filter),
}

impl Choice {
    /// What the command line chooses, where that is clear.
    ///
    /// # Errors
    /// It names nothing, or both.
    pub fn of(sequences: &[u64], all: bool, filter: &Filter) -> Result<Self, Failure> {
        let is_filtered = !filter.query().is_empty();
        match (sequences.is_empty(), all, is_filtered) {
            (false, false, false) => Ok(Self::Named(sequences.to_vec())),
            // What comes meanwhile was not meant.
            (true, true, false) | (true, false, true) => {
                let until = filter.until.or_else(|| Some(Timestamp::now()));
                Ok(Self::Found(Filter { until, ..filter.clone() }))
            }
            (true, false, false) => {
                Err(Failure::usage("name sequences of dead letters, a filter such as --type, or --all"))
            }
            _ => Err(Failure::usage("name either sequences, a filter, or --all")),
        }
    }
}

/// The answer to a call that drops letters.
#[derive(Deserialize)]
struct Answer {
    details: Details,
}

#[derive(Deserialize)]
struct Details {
    dropped: u64,
}

/// Drops letters, and says how many.
pub async fn run(api: &Api, handler: &str, choice: &Choice, out: &mut dyn Write) -> Result<(), Failure> {
    let mut dropped = 0;
    let ended = all(api, handler, choice, &mut dropped).await;
    print(out, &format!("{dropped} dead letters were dropped"))?;
    output::flush(out)?;
    ended
}

async fn all(api: &Api, handler: &str, choice: &Choice, dropped: &mut u64) -> Result<(), Failure> {
    match choice {
        Choice::Named(sequences) => drop_named(api, handler, sequences, dropped).await,
        Choice::Found(filter) => {
            let mut letters = letters(api, handler, filter.query(), None)?;
            while let Some(page) = letters.next().await? {
                let sequences = page.iter().map(|item| Ok(parse::<Stored>(item)?.sequence));
                let sequences = sequences.collect::<Result<Vec<u64>, Failure>>()?;
                drop_named(api, handler, &sequences, dropped).await?;
            }
            Ok(())
        }
    }
}

async fn drop_named(api: &Api, handler: &str, sequences: &[u64], dropped: &mut u64) -> Result<(), Failure> {
    let path = api.path(None, "eventhandlers", handler, "deadletters")?;
    for named in sequences.chunks(MAX_NAMED) {
        let path = with_query(&path, named.iter().map(|sequence| ("sequence", sequence.to_string())));
        let answer: Answer = parse(raw(&api.call_in_turn(Method::DELETE, &path).await?)?)?;
        *dropped += answer.details.dropped;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_dropped_only_where_it_is_clear_which() {
        let filter = Filter { reason: Some("too-old".to_owned()), ..Filter::default() };
        assert!(matches!(Choice::of(&[1], false, &Filter::default()), Ok(Choice::Named(_))));
        for (all, filter) in [(true, &Filter::default()), (false, &filter)] {
            let Ok(Choice::Found(found)) = Choice::of(&[], all, filter) else { panic!("{filter:?}") };
            assert!(found.until.is_some());
        }
        for (sequences, all, filter) in [
            (&[][..], false, &Filter::default()),
            (&[1], true, &Filter::default()),
            (&[1], false, &filter),
            (&[], true, &filter),
        ] {
            assert_eq!(Choice::of(sequences, all, filter).unwrap_err().code(), 2);
        }
    }
}
