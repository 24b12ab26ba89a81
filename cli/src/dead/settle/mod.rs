//! `tidegate dead redrive` and `tidegate dead drop`.

mod calls;
mod confirm;
mod progress;

use std::cell::Cell;
use std::io::Write;
use std::pin::pin;

use tokio::signal::ctrl_c;

use super::{Filter, letters};
use crate::failure::Failure;
use crate::output::{self, print};
use crate::stored::{Api, Stored, parse};
use crate::{target, terminal};
pub use confirm::confirm;
use progress::Progress;

/// Sequences in a call: an address is bounded, and so is the time of a call.
const MAX_NAMED: usize = 100;

/// Which dead letters of which handler: those with the sequences that are named, or those that a filter finds, or all of them.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the EventHandler.
    #[arg(value_parser = target::handler)]
    pub handler: String,
    /// Sequences of the dead letters.
    pub sequences: Vec<u64>,
    /// All dead letters that are there when the command begins.
    #[arg(long)]
    pub all: bool,
    /// Which ones.
    #[command(flatten)]
    pub filter: Filter,
}

/// Which letters are meant.
#[derive(Debug)]
pub enum Choice {
    /// Those with these sequences.
    Named(Vec<u64>),
    /// Those that this finds.
    Found(Filter),
}

impl Arguments {
    /// What the command line chooses, where that is clear.
    ///
    /// # Errors
    /// It names nothing, or both.
    pub fn choice(&self) -> Result<Choice, Failure> {
        match (self.sequences.is_empty(), self.all, self.filter.is_empty()) {
            (false, false, true) => {
                let mut sequences = self.sequences.clone();
                sequences.sort_unstable();
                sequences.dedup();
                Ok(Choice::Named(sequences))
            }
            (true, true, true) | (true, false, false) => Ok(Choice::Found(self.filter.clone())),
            (true, false, true) => {
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

impl Settlement {
    fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Drop => "dropped",
        }
    }
}

/// What is done, and what was done so far.
struct Work<'a> {
    api: &'a Api,
    handler: &'a str,
    settlement: Settlement,
    progress: Progress,
    count: Cell<u64>,
    /// Letters that cannot be redriven.
    staying: Cell<u64>,
    /// Letters that are not there.
    gone: Cell<u64>,
    /// Letters of the call that is under way, if it settles some.
    under_way: Cell<usize>,
    /// Whether no further call is to be made.
    is_interrupted: Cell<bool>,
}

/// Settles letters, and says how many, whatever it ends with.
pub async fn run(api: &Api, arguments: &Arguments, settlement: Settlement, out: &mut dyn Write) -> Result<(), Failure> {
    let choice = arguments.choice()?;
    let work = Work {
        api,
        handler: &arguments.handler,
        settlement,
        progress: Progress::new(),
        count: Cell::default(),
        staying: Cell::default(),
        gone: Cell::default(),
        under_way: Cell::default(),
        is_interrupted: Cell::default(),
    };
    let ended = work.until_interrupted(work.all(&choice, out)).await;
    work.progress.end();
    let said = match &choice {
        Choice::Found(filter) if ended.is_ok() && !filter.is_empty() && work.is_untouched() => {
            "no dead letter matches the filter".to_owned()
        }
        _ => format!("{} dead letters were {}", work.count.get(), settlement.done()),
    };
    print(out, &said)?;
    output::flush(out)?;
    ended?;
    match (work.staying.get(), work.gone.get()) {
        (0, 0) => Ok(()),
        (staying, 0) => Err(Failure::Refused(format!("{staying} dead letters stay, for the reasons above"))),
        (0, gone) => Err(Failure::Refused(format!("{gone} dead letters were not there"))),
        (staying, gone) => Err(Failure::Refused(format!(
            "{staying} dead letters stay, for the reasons above, and {gone} were not there"
        ))),
    }
}

impl Work<'_> {
    /// Ends after the call that is under way when it is interrupted, so that what was done is known; at once, when it is
    /// interrupted again.
    async fn until_interrupted(&self, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let mut work = pin!(work);
        tokio::select! {
            ended = &mut work => return ended,
            Ok(()) = ctrl_c() => self.is_interrupted.set(true),
        }
        self.progress
            .apart(|| terminal::say("tidegate: ends after the call that is under way (Ctrl-C again: at once)"));
        tokio::select! {
            ended = &mut work => ended,
            Ok(()) = ctrl_c() => Err(match self.under_way.get() {
                0 => interrupted(),
                asked => Failure::Interrupted(format!(
                    "interrupted during a call: up to {asked} more may have been {}", self.settlement.done()
                )),
            }),
        }
    }

    async fn all(&self, choice: &Choice, out: &mut dyn Write) -> Result<(), Failure> {
        match choice {
            Choice::Named(sequences) => {
                self.progress.of(sequences.len() as u64);
                for (number, part) in sequences.chunks(MAX_NAMED).enumerate() {
                    self.part(part, out).await?;
                    self.progress.at((number * MAX_NAMED + part.len()) as u64, self.words());
                }
                Ok(())
            }
            Choice::Found(filter) => self.found(filter, out).await,
        }
    }

    async fn found(&self, filter: &Filter, out: &mut dyn Write) -> Result<(), Failure> {
        let mut letters = letters(self.api, self.handler, filter, &[], None)?;
        let mut before = None;
        while !letters.is_done() {
            // A search may find nothing for many pages.
            self.check_interrupted()?;
            let Some(page) = letters.next().await? else { break };
            let sequences = page.iter().map(|item| Ok(parse::<Stored>(item)?.sequence));
            let sequences = sequences.collect::<Result<Vec<u64>, Failure>>()?;
            let Some(first) = sequences.first() else { continue };
            // How far it has come through the sequences: how many of them a filter finds is known at the end alone.
            let before = *before.get_or_insert(first.saturating_sub(1));
            self.progress.of(letters.last_sequence().unwrap_or_default().saturating_sub(before));
            for part in sequences.chunks(MAX_NAMED) {
                self.part(part, out).await?;
                self.progress.at(part.last().map_or(0, |last| last.saturating_sub(before)), self.words());
            }
        }
        Ok(())
    }

    /// Whether no letter was found.
    fn is_untouched(&self) -> bool {
        self.count.get() + self.staying.get() + self.gone.get() == 0
    }

    async fn part(&self, part: &[u64], out: &mut dyn Write) -> Result<(), Failure> {
        match self.settlement {
            Settlement::Drop => self.drop_part(part, out).await,
            Settlement::Redrive => self.redrive_part(part.to_vec(), out).await,
        }
    }

    /// Between two calls.
    fn check_interrupted(&self) -> Result<(), Failure> {
        match self.is_interrupted.get() {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }

    /// For the one who waits.
    fn words(&self) -> String {
        let more = match self.staying.get() + self.gone.get() {
            0 => String::new(),
            others => format!(", {others} not"),
        };
        format!("{} {}{more}", self.count.get(), self.settlement.done())
    }

    /// Writes a line about a letter.
    fn say(&self, line: &str, out: &mut dyn Write) -> Result<(), Failure> {
        self.progress.apart(|| print(out, line).and_then(|()| output::flush(out)))
    }

    fn say_gone(&self, sequence: u64, out: &mut dyn Write) -> Result<(), Failure> {
        add(&self.gone, 1);
        self.say(
            &format!(
                "{sequence} is not there: it was redriven or dropped already, or is no dead letter of the handler"
            ),
            out,
        )
    }
}

/// Between two calls that settle letters.
fn interrupted() -> Failure {
    Failure::Interrupted("interrupted: the others are as they were".to_owned())
}

fn add(number: &Cell<u64>, more: u64) {
    number.set(number.get().saturating_add(more));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_settled_only_where_it_is_clear_which() {
        let filter = Filter { reason: Some("too-old".to_owned()), ..Filter::default() };
        let arguments = |sequences: &[u64], all: bool, filter: &Filter| Arguments {
            handler: "billing".to_owned(),
            sequences: sequences.to_vec(),
            all,
            filter: filter.clone(),
        };
        let named = arguments(&[2, 1, 2], false, &Filter::default()).choice();
        assert!(matches!(named, Ok(Choice::Named(sequences)) if sequences == [1, 2]));
        for (all, filter) in [(true, &Filter::default()), (false, &filter)] {
            assert!(matches!(arguments(&[], all, filter).choice(), Ok(Choice::Found(_))), "{filter:?}");
        }
        for (sequences, all, filter) in [
            (&[][..], false, &Filter::default()),
            (&[1], true, &Filter::default()),
            (&[1], false, &filter),
            (&[], true, &filter),
        ] {
            assert_eq!(arguments(sequences, all, filter).choice().unwrap_err().code(), 2);
        }
    }
}
