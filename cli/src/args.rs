//! The command line.

use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::{check, console, dead, dev, doctor, send, tail, terminal};

/// Topics and handlers on this machine, events to publish, what a cluster has stored, and what is wrong there.
///
/// Exit codes: 0 done; 1 something is away, in use or broken, and the same command may work later; 2 the command line or a
/// file is wrong; 3 the program that was to get the events ended; 4 a topic refused an event for good, dead letters stay or were
/// not there, or are no events; 5 doctor or check could not look at everything, and nothing that they saw is red; 6 something is
/// red; 130 Ctrl-C ended it; 141 nobody reads the output any more.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run topics and handlers on this machine, without a cluster.
    Dev(dev::Arguments),
    /// Publish events, and say what became of each.
    Send(Box<send::Arguments>),
    /// Say what is wrong with a topic, handler or broker of a cluster, and what to do.
    ///
    /// Looks along the way that events take, from the broker to the handler's answers and dead letters, with your own rights.
    /// A line for each link: ok, warning (events flow), red (they do not), or unknown. Begin with the first red one, which
    /// names cause and remedy.
    Doctor(doctor::Arguments),
    /// Say whether Tidegate is installed in a cluster as it has to be, and what you may do there.
    ///
    /// Definitions, operator, webhook, aggregated API, certificates, storage class and your rights, a line each as of doctor.
    /// Nothing is stored: a handler that only the webhook refuses is a dry run.
    Check(check::Arguments),
    /// Show the latest events that a topic of a cluster has stored, and those that come.
    Tail(tail::Arguments),
    /// Show, export, redrive and drop the dead letters of a handler in a cluster.
    Dead(dead::Arguments),
    /// Show topics, handlers, events and dead letters of a cluster as pages in your browser.
    ///
    /// The pages are served on this machine's loopback for as long as the command runs, with your own rights, under a random name; it prints
    /// their address. Other users and pages cannot read them without the token in that address, which opens them once.
    Console(console::Arguments),
    /// Write completions for a shell to standard output.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write manual pages into a folder: tidegate.1, and one for each command.
    Man {
        /// The folder, which has to be there.
        folder: PathBuf,
    },
    /// End programs when this program's parent has gone. Started by `tidegate dev`.
    #[command(hide = true)]
    Keeper,
}

/// Writes what a shell needs to complete this command line.
///
/// # Errors
/// Nobody reads it.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tidegate", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script).map_err(terminal::unread)
}

/// Writes the manual pages.
///
/// # Errors
/// The folder is not there, or cannot be written.
pub fn man(folder: &Path) -> Result<(), Failure> {
    let written = clap_mangen::generate_to(Arguments::command(), folder);
    written.map_err(|error| Failure::Usage(format!("{}: {error}: name a folder that is there", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_manual_page_and_what_is_hidden_has_none() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap();
        let page = std::fs::read_to_string(folder.path().join("tidegate-dev.1")).unwrap();
        assert!(page.contains("fresh"), "{page}");
        assert!(folder.path().join("tidegate-send.1").exists() && !folder.path().join("tidegate-keeper.1").exists());
        assert_eq!(man(Path::new("/nowhere")).unwrap_err().code(), 2);
    }

    #[test]
    fn an_event_is_sent_to_one_place() {
        let parse = |more: &[&str]| Arguments::try_parse_from([&["tidegate", "send", "orders"], more].concat());
        assert!(parse(&["--data", "{}", "--context", "kind"]).is_ok());
        for bad in [&["--state", "a", "--context", "b"][..], &["--url", "https://a"], &["-d", "1", "-f", "a"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_follows_the_dashes_is_the_program() {
        let words = ["tidegate", "dev", "topic.yaml", "--http", "--", "python", "app.py", "--http"];
        let Command::Dev(args) = Arguments::parse_from(words).command else { panic!("not dev") };
        assert_eq!(args.files, [std::path::PathBuf::from("topic.yaml")]);
        assert_eq!(args.program, ["python", "app.py", "--http"]);
        assert_eq!(args.http, Some(dev::HTTP_PORT));
    }
}
