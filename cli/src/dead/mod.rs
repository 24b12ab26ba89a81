//! `tidegate dead`: dead letters of a handler.

mod export;
pub(crate) mod letter;
mod list;
mod settle;
mod show;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;

use crate::failure::Failure;
use crate::moment::{self, Moment};
use crate::output::{self, Format};
use crate::stored::{Api, Pages, Place};
use crate::target;
use crate::terminal::text;
use settle::Settlement;

/// What `tidegate dead` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the handler is.
    #[command(flatten)]
    pub place: Place,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List dead letters, without their data, oldest first.
    List {
        /// Name of the EventHandler.
        #[arg(value_parser = target::handler)]
        handler: String,
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// Number of them at most.
        #[arg(long, value_name = "NUMBER")]
        limit: Option<u64>,
        /// Output: text, json (a document in each line) or yaml.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Show one dead letter: the event with its data, why it is one, and its attempts.
    Show {
        /// Name of the EventHandler.
        #[arg(value_parser = target::handler)]
        handler: String,
        /// Sequence of the dead letter, as `tidegate dead list` shows it.
        sequence: u64,
        /// Output: text, json or yaml. The last two have all of the data.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Write the events of dead letters, whole, one in each line in the JSON format of CloudEvents.
    Export {
        /// Name of the EventHandler.
        #[arg(value_parser = target::handler)]
        handler: String,
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// Number of them at most.
        #[arg(long, value_name = "NUMBER")]
        limit: Option<u64>,
        /// File to write, which is replaced. Default: standard output.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Give dead letters to their handler again. An event keeps its identity and its data, and starts without attempts.
    Redrive(settle::Arguments),
    /// Remove dead letters for good.
    Drop {
        /// Which ones.
        #[command(flatten)]
        letters: settle::Arguments,
        /// Do not ask. Needed where there is no terminal to ask at.
        #[arg(short, long)]
        yes: bool,
    },
}

/// Which dead letters are meant. All of what is given must hold. An empty value (`--type "$T"` without a T) is a mistake, and
/// must not mean all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Filter {
    /// Only events of this type, or of the types beneath a prefix (com.shop.order.*).
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub event_type: Option<String>,
    /// Only those with this reason, such as attempts-used-up or refused-by-handler.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub reason: Option<String>,
    /// Only what became a dead letter at this time (RFC 3339) or later; or how long ago, by the broker's clock: 90m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub since: Option<Moment>,
    /// Only what became one before.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub until: Option<Moment>,
    /// Only those with this text in an attribute, the last error or the data.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub text: Option<String>,
    /// Only those from this sequence on: where an earlier command ended.
    #[arg(long, value_name = "SEQUENCE")]
    pub from: Option<u64>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As on the command line, for people.
    fn words(&self) -> String {
        let (since, until) = (self.since.map(|since| since.to_string()), self.until.map(|until| until.to_string()));
        let words = [
            ("--type", self.event_type.clone()),
            ("--reason", self.reason.clone()),
            ("--since", since),
            ("--until", until),
            ("--text", self.text.clone()),
            ("--from", self.from.map(|from| from.to_string())),
        ];
        let said = words.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", text(&value?))));
        said.collect::<Vec<_>>().join(" ")
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        [
            ("type", self.event_type.clone()),
            ("reason", self.reason.clone()),
            ("text", self.text.clone()),
            ("continue", self.from.map(|from| from.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    fn times(&self) -> Vec<(&'static str, Moment)> {
        let times = [("since", self.since), ("until", self.until)];
        times.into_iter().filter_map(|(name, time)| Some((name, time?))).collect()
    }
}

/// Does what is asked for.
///
/// # Errors
/// It cannot be done.
pub async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = Api::connect(&arguments.place).await?;
    if let Command::Drop { letters, yes: false } = &arguments.command {
        settle::confirm(letters, api.location())?;
    }
    let is_terminal = std::io::stdout().is_terminal();
    let mut out = output::stdout();
    run_with(&api, &arguments.command, &mut out, is_terminal).await?;
    output::flush(&mut out)
}

/// The same with an API, and somewhere else to write to. It asks nothing.
///
/// # Errors
/// As [`run`].
pub async fn run_with(api: &Api, command: &Command, out: &mut dyn Write, is_terminal: bool) -> Result<(), Failure> {
    match command {
        Command::List { handler, filter, limit, output } => {
            list::run(letters(api, handler, filter, &[], *limit)?, !filter.is_empty(), *output, out).await
        }
        Command::Show { handler, sequence, output } => {
            show::run(api, handler, *sequence, *output, is_terminal, out).await
        }
        Command::Export { handler, filter, limit, file } => {
            let letters = letters(api, handler, filter, &[("data", "true")], *limit)?;
            export::run(letters, handler, file.as_deref(), out).await
        }
        Command::Drop { letters, .. } => settle::run(api, letters, Settlement::Drop, out).await,
        Command::Redrive(letters) => settle::run(api, letters, Settlement::Redrive, out).await,
    }
}

/// Those that a filter finds.
fn letters<'a>(
    api: &'a Api,
    handler: &str,
    filter: &Filter,
    more: &[(&'static str, &str)],
    limit: Option<u64>,
) -> Result<Pages<'a>, Failure> {
    let path = api.path(None, "eventhandlers", handler, "deadletters")?;
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Ok(api.pages(path, filter.query().into_iter().chain(more).collect(), filter.times(), limit))
}
