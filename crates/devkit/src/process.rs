//! A process by more than its number: numbers are used again, start times are not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress::{Look, Progress};

/// A process this program started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number in our own process namespace.
    pub pid: i32,
    /// Clock ticks after boot at which it started.
    started: u64,
}

impl Process {
    /// The living process with this number, if there is one. A zombie does not live.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        started(&stat).map(|started| Self { pid, started })
    }

    /// Reads what [`Process::record`] wrote; nothing if there is no such file or that process is gone.
    pub fn recorded(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let process = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        process.lives().then_some(process)
    }

    /// Writes number and start time to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self, path: &Path) -> Result<()> {
        // Renamed into place: a reader sees both numbers or no file.
        let partial = path.with_extension("partial");
        fs::write(&partial, format!("{} {}\n", self.pid, self.started))?;
        fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// It is still there after twenty seconds.
    pub fn end(&self, what: &str, progress: &Progress) -> Result<()> {
        if self.lives() {
            kill(Pid::from_raw(self.pid), Signal::SIGKILL).ok();
        }
        progress.wait(&format!("the end of {what}"), Duration::from_secs(20), Duration::from_millis(20), || {
            Ok(if self.lives() { Look::NotYet(format!("process {} lives", self.pid)) } else { Look::Ready(()) })
        })
    }
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)), unless field 3 says zombie or dead. The name, field 2, may hold anything.
fn started(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3";

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        assert_eq!(started(STAT), Some(4711));
        assert_eq!(started(&STAT.replace(" S ", " Z ")), None);
    }

    #[test]
    fn a_recorded_process_is_recognised_only_while_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let own = Process::of(std::process::id() as i32).unwrap();
        own.record(&path).unwrap();
        assert_eq!(Process::recorded(&path), Some(own));
        Process { started: own.started + 1, ..own }.record(&path).unwrap();
        assert_eq!(Process::recorded(&path), None);
    }
}
