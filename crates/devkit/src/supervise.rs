//! Starts the node's programs as soon as what they need is there, and tells when one ends.
//!
//! None is started again: none should end, so an end is a finding. As the first process of its namespace it also takes
//! up every orphan.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::programs::{Need, Program};
use crate::state::{Death, State};

const PERIOD: Duration = Duration::from_millis(50);

/// A program that was started.
struct Running {
    name: &'static str,
    since: Instant,
}

/// Runs for ever.
///
/// # Errors
/// A program cannot be started at all.
pub fn run(state: &State, programs: Vec<Program>) -> Result<()> {
    let mut waiting = programs;
    let mut running = BTreeMap::new();
    loop {
        let (ready, rest): (Vec<_>, _) = waiting.into_iter().partition(is_ready);
        waiting = rest;
        for program in ready {
            running.insert(start(state, &program)?, Running { name: program.name, since: Instant::now() });
        }
        while let Some((pid, how)) = reap()? {
            if let Some(program) = running.remove(&pid) {
                let how = format!("{how} after {:.1} s", program.since.elapsed().as_secs_f64());
                eprintln!("{} ended: {how}", program.name);
                state.add_death(&Death { program: program.name.to_owned(), how })?;
            }
        }
        thread::sleep(PERIOD);
    }
}

fn is_ready(program: &Program) -> bool {
    program.needs.iter().all(Need::met)
}

fn start(state: &State, program: &Program) -> Result<i32> {
    let log = File::create(state.log(program.name))?;
    let child = Command::new(program.name)
        .args(&program.arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.name))?;
    eprintln!("{} started, process {}", program.name, child.id());
    Ok(child.id().cast_signed())
}

/// One child that ended, ours or an orphan.
fn reap() -> Result<Option<(i32, String)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Ok(Some((pid.as_raw(), format!("exit status {code}")))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Ok(Some((pid.as_raw(), format!("killed by {signal}")))),
        Ok(_) | Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error).context("waiting for children"),
    }
}
