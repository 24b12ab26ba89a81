//! How it is measured.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::process::Programs;
use crate::rows;

/// What is asked for on the command line.
#[derive(Debug, Parser)]
#[command(version, about = "Tidegate's figures, each measured beside what it is compared with")]
pub struct Options {
    /// The groups to measure; all of them if none is named.
    #[arg(value_parser = PossibleValuesParser::new(rows::GROUPS))]
    pub groups: Vec<String>,
    /// Rounds of each comparison; a figure is their median.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Two rounds of a tenth of the events: whether everything works, and no figures.
    #[arg(long)]
    pub quick: bool,
    /// The folder of tidegate-handler-sidecar and tidegate-ingress; by default the folder of this program.
    #[arg(long, env = "TIDEGATE_BENCH_PROGRAMS")]
    pub programs: Option<PathBuf>,
    /// The folder of an older build of them, which is measured beside them.
    #[arg(long)]
    pub before: Option<PathBuf>,
    /// Keeps the figures in this folder, and writes the page `performance.md` beside it.
    #[arg(long)]
    pub save: Option<PathBuf>,
    /// Builds the peers that are measured beside our programs, and measures nothing.
    #[arg(long)]
    pub build_peers: bool,
}

/// What is the same in all groups.
pub struct Bench {
    /// Our programs.
    pub programs: Programs,
    /// An older build of them.
    pub before: Option<Programs>,
    /// Rounds of each comparison.
    pub rounds: usize,
    quick: bool,
}

impl Bench {
    /// As the options say.
    ///
    /// # Errors
    /// The programs are not there.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let before = options.before.as_deref().map(|folder: &Path| Programs::at(Some(folder))).transpose()?;
        let rounds = if options.quick { 2 } else { options.rounds.max(1) };
        Ok(Self { programs: Programs::at(options.programs.as_deref())?, before, rounds, quick: options.quick })
    }

    /// So many events, or a tenth of them.
    pub fn scaled(&self, events: u64) -> u64 {
        if self.quick { (events / 10).max(20) } else { events }
    }

    /// The handler's side of so many connections lives in this process, the sidecar's in a child of it.
    ///
    /// # Errors
    /// They are not allowed.
    pub fn allow_connections(&self, wanted: u64) -> anyhow::Result<()> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if soft < wanted {
            ensure!(hard >= wanted, "{wanted} open files are needed, {hard} are allowed");
            setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
        }
        Ok(())
    }
}
