//! What ends the programs when `tidegate dev` itself is killed and can end nothing any more: a process that reads which
//! there are from a pipe, and sees its end.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::failure::Failure;

/// How long programs may take to end in order.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way to that process.
#[derive(Clone, Debug)]
pub struct Keeper(Option<Arc<Mutex<Child>>>);

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn start() -> Result<Self, Failure> {
        let own = std::env::current_exe().map_err(Failure::failed)?;
        let child = Command::new(own)
            .arg("keeper")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::Failed(format!("this program cannot be started again: {error}")))?;
        Ok(Self(Some(Arc::new(Mutex::new(child)))))
    }

    /// Nobody keeps anything.
    pub fn none() -> Self {
        Self(None)
    }

    /// This group is there from now on.
    pub fn add(&self, group: Pid) {
        self.tell('+', group);
    }

    /// It has ended, and its number may be another's.
    pub fn remove(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, what: char, group: Pid) {
        let Some(child) = &self.0 else { return };
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = &mut child.stdin {
            // One that is gone keeps nothing; all else works.
            let _ = writeln!(pipe, "{what}{group}");
        }
    }

    /// Ends it, when everything else has ended.
    pub fn end(self) {
        if let Some(child) = self.0 {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// That process: at the end of its input it ends the groups that are left.
///
/// # Errors
/// None that is known.
pub fn run() -> Result<(), Failure> {
    let mut groups = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        note(&mut groups, &line);
    }
    let signal = |signal| {
        for group in &groups {
            // It may have ended.
            let _ = killpg(Pid::from_raw(*group), signal);
        }
    };
    if !groups.is_empty() {
        signal(Signal::SIGTERM);
        std::thread::sleep(PATIENCE);
        signal(Signal::SIGKILL);
    }
    Ok(())
}

fn note(groups: &mut BTreeSet<i32>, line: &str) {
    let (what, group) = line.split_at_checked(1).unwrap_or_default();
    // 1 and below are not a program's.
    let Some(group) = group.parse().ok().filter(|group| *group > 1) else { return };
    match what {
        "+" => drop(groups.insert(group)),
        "-" => drop(groups.remove(&group)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_was_added_and_not_removed() {
        let mut groups = BTreeSet::new();
        for line in ["+10", "+11", "-10", "+0", "+-1", "x12", "+", ""] {
            note(&mut groups, line);
        }
        assert_eq!(groups, BTreeSet::from([11]));
    }
}
