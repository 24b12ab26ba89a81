//! The figures of a run, and of the runs before it where only some groups are measured again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::contender::Rounds;
use crate::{report, stats};

/// The file in which they are kept.
const FILE: &str = "figures.json";

/// One figure: the median of its rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The median.
    pub value: f64,
    /// The least of the rounds.
    pub least: f64,
    /// The greatest of the rounds.
    pub greatest: f64,
    /// How many rounds there were.
    pub rounds: usize,
    /// What it must be, or `reported`.
    pub target: String,
}

/// A bar of a plot: what something costs each party.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// Microseconds per event: program, server, handler or publisher.
    pub parts: [f64; 3],
    /// Events per second.
    pub rate: f64,
}

/// The figures of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What was measured, and on what.
    pub notes: Vec<String>,
    /// Its rows.
    pub rows: Vec<Row>,
    /// Its plot.
    pub bars: Vec<Bar>,
    /// Milliseconds by percentile, of each curve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
}

/// Latency by percentile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Whose.
    pub label: String,
    /// Percentile and milliseconds.
    pub points: Vec<(f64, f64)>,
}

/// All groups.
pub type Groups = BTreeMap<String, Group>;

impl Row {
    /// Whether it is as it must be; `None`: it has no target.
    pub fn meets(&self) -> Option<bool> {
        let (relation, bound) = self.target.split_once(' ')?;
        let bound: f64 = bound.parse().ok()?;
        match relation {
            "<=" => Some(self.value <= bound),
            ">=" => Some(self.value >= bound),
            _ => None,
        }
    }
}

impl Group {
    /// Prints and keeps the median of a figure's rounds.
    ///
    /// # Errors
    /// Stdout is not read any more.
    pub fn row(&mut self, name: &str, rounds: &[f64], target: &str) -> std::io::Result<()> {
        let (least, greatest) = stats::spread(rounds);
        let (name, value, target) = (name.to_owned(), stats::median(rounds), target.to_owned());
        let row = Row { name, value, least, greatest, rounds: rounds.len(), target };
        report::row(&row)?;
        self.rows.push(row);
        Ok(())
    }

    /// Prints and keeps what each contender costs each party.
    ///
    /// # Errors
    /// Stdout is not read any more.
    pub fn parties(&mut self, group: &str, all: &[Rounds]) -> std::io::Result<()> {
        for rounds in all {
            let program = rounds.each(|work| work.program);
            let server = rounds.each(|work| work.server);
            let counter = rounds.each(|work| work.counter);
            let rate = rounds.each(|work| work.rate);
            let name = |figure: &str| format!("{group}-{}-{figure}", rounds.label);
            self.row(&name("program-us"), &program, "reported")?;
            self.row(&name("server-us"), &server, "reported")?;
            self.row(&name("rate"), &rate, "reported")?;
            self.bars.push(Bar {
                label: rounds.label.clone(),
                parts: [program, server, counter].map(|values| stats::median(&values)),
                rate: stats::median(&rate),
            });
        }
        Ok(())
    }
}

/// Those that were kept before; none where there is no such file.
///
/// # Errors
/// The file is not one of this program.
pub fn load(folder: &Path) -> anyhow::Result<Groups> {
    let file = folder.join(FILE);
    if !file.exists() {
        return Ok(Groups::new());
    }
    serde_json::from_slice(&fs::read(&file)?).with_context(|| file.display().to_string())
}

/// Keeps them.
///
/// # Errors
/// The folder cannot be written.
pub fn save(folder: &Path, groups: &Groups) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    Ok(fs::write(folder.join(FILE), serde_json::to_string_pretty(groups)? + "\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_this_program_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), Groups::new());
        fs::write(folder.path().join(FILE), "{\"delivery\": 7}").unwrap();
        assert!(load(folder.path()).unwrap_err().to_string().contains(FILE));
    }

    #[test]
    fn a_target_is_met_or_missed_or_there_is_none() {
        let row = |value, target: &str| {
            let (name, target) = ("x".to_owned(), target.to_owned());
            Row { name, value, least: value, greatest: value, rounds: 1, target }.meets()
        };
        assert_eq!([row(0.65, "<= 0.65"), row(0.66, "<= 0.65")], [Some(true), Some(false)]);
        assert_eq!([row(3.0, ">= 3"), row(f64::NAN, ">= 3")], [Some(true), Some(false)]);
        assert_eq!([row(1.0, "reported"), row(1.0, "< 2")], [None, None]);
    }
}
