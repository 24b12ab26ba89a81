//! `tidegate dead redrive` and `tidegate dead drop`.

use std::io::Write;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Filter, letters};
use crate::failure::Failure;
use crate::output::{self, print};
use crate::stored::{Api, Stored, parse, raw, with_query};
use crate::terminal::text;

/// Sequences in a call: an address is bounded, and so is the time of a call.
const MAX_NAMED: usize = 100;

/// Which letters are meant.
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
        let is_filtered = !filter.is_empty();
        match (sequences.is_empty(), all, is_filtered) {
            (false, false, false) => Ok(Self::Named(sequences.to_vec())),
            (true, true, false) | (true, false, true) => Ok(Self::Found(filter.clone())),
            (true, false, false) => {
                Err(Failure::usage("name sequences of dead letters, a filter such as --type, or --all"))
            }
            _ => Err(Failure::usage("name either sequences, a filter, or --all")),
        }
    }
}

/// What is done with them.
#[derive(Clone, Copy, Debug)]
pub enum Settlement {
    /// They go to their handler again.
    Redrive,
    /// They are removed.
    Drop,
}

/// What was done so far.
#[derive(Default)]
struct Done {
    count: u64,
    /// Letters that cannot be redriven.
    staying: u64,
}

/// The answer to a call that drops letters.
#[derive(Deserialize)]
struct DropAnswer {
    details: Details,
}

#[derive(Deserialize)]
struct Details {
    dropped: u64,
}

/// The answer to a call that redrives letters.
#[derive(Deserialize)]
struct RedriveAnswer {
    redriven: u64,
    items: Vec<Redriven>,
    /// Those that were not dealt with.
    left: Vec<u64>,
    /// Why not, in one word.
    #[serde(default)]
    reason: String,
    /// And in a sentence, with what can be done.
    #[serde(default)]
    message: String,
}

/// Of those that are left where a call was only too short for them.
const OUT_OF_TIME: &str = "OutOfTime";

#[derive(Deserialize)]
struct Redriven {
    sequence: u64,
    outcome: String,
    #[serde(default)]
    message: String,
}

/// Settles letters, and says how many.
pub async fn run(
    api: &Api,
    handler: &str,
    choice: &Choice,
    settlement: Settlement,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut done = Done::default();
    let ended = all(api, handler, choice, settlement, &mut done, out).await;
    let word = match settlement {
        Settlement::Redrive => "redriven",
        Settlement::Drop => "dropped",
    };
    print(out, &format!("{} dead letters were {word}", done.count))?;
    output::flush(out)?;
    ended?;
    match done.staying {
        0 => Ok(()),
        staying => Err(Failure::Refused(format!("{staying} dead letters stay, for the reasons above"))),
    }
}

async fn all(
    api: &Api,
    handler: &str,
    choice: &Choice,
    settlement: Settlement,
    done: &mut Done,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match choice {
        Choice::Named(sequences) => named(api, handler, sequences, settlement, done, out).await,
        Choice::Found(filter) => {
            let mut letters = letters(api, handler, filter, &[], None)?;
            while let Some(page) = letters.next().await? {
                let sequences = page.iter().map(|item| Ok(parse::<Stored>(item)?.sequence));
                let sequences = sequences.collect::<Result<Vec<u64>, Failure>>()?;
                named(api, handler, &sequences, settlement, done, out).await?;
            }
            Ok(())
        }
    }
}

async fn named(
    api: &Api,
    handler: &str,
    sequences: &[u64],
    settlement: Settlement,
    done: &mut Done,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    for part in sequences.chunks(MAX_NAMED) {
        match settlement {
            Settlement::Drop => done.count += drop_part(api, handler, part).await?,
            Settlement::Redrive => redrive_part(api, handler, part.to_vec(), done, out).await?,
        }
    }
    Ok(())
}

async fn drop_part(api: &Api, handler: &str, part: &[u64]) -> Result<u64, Failure> {
    let path = api.path(None, "eventhandlers", handler, "deadletters")?;
    let path = with_query(&path, part.iter().map(|sequence| ("sequence", sequence.to_string())));
    let answer: DropAnswer = parse(raw(&api.call_in_turn(Method::DELETE, &path, None).await?)?)?;
    Ok(answer.details.dropped)
}

/// Repeats the call for what the one before had no time for. Each settles a letter at least, or fails. What is left for another
/// reason is not asked for again: a person decides that.
async fn redrive_part(
    api: &Api,
    handler: &str,
    mut left: Vec<u64>,
    done: &mut Done,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let path = api.path(None, "eventhandlers", handler, "redrive")?;
    while !left.is_empty() {
        let body = json!({"sequences": left}).to_string();
        let answer: RedriveAnswer = parse(raw(&api.call_in_turn(Method::POST, &path, Some(&body)).await?)?)?;
        done.count += answer.redriven;
        for stays in answer.items.iter().filter(|item| item.outcome == "stays") {
            done.staying += 1;
            print(out, &format!("{} stays a dead letter: {}", stays.sequence, text(&stays.message)))?;
        }
        let may_repeat = answer.reason == OUT_OF_TIME && answer.left.len() < left.len();
        if !answer.left.is_empty() && !may_repeat {
            return Err(Failure::failed(text(&answer.message)));
        }
        left = answer.left;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_settled_only_where_it_is_clear_which() {
        let filter = Filter { reason: Some("too-old".to_owned()), ..Filter::default() };
        assert!(matches!(Choice::of(&[1], false, &Filter::default()), Ok(Choice::Named(_))));
        for (all, filter) in [(true, &Filter::default()), (false, &filter)] {
            assert!(matches!(Choice::of(&[], all, filter), Ok(Choice::Found(_))), "{filter:?}");
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
