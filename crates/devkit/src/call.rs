//! Running other programs: output captured, time bounded, failures told with the program's own last words.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a program that ended left behind.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end and captures its output. It is killed when it takes longer than `limit`.
///
/// Standard input is left as the command says. Output goes through files, so that a silent reader cannot block it.
///
/// # Errors
/// The program cannot be started, or it did not end in time.
pub fn output(command: &mut Command, limit: Duration) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut stdout = tempfile::tempfile().context("a file for output")?;
    let mut stderr = tempfile::tempfile().context("a file for output")?;
    command.stdout(Stdio::from(stdout.try_clone()?)).stderr(Stdio::from(stderr.try_clone()?));
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let status = wait(&mut child, limit, |_| ())?.with_context(|| format!("{name} did not end within {limit:?}"))?;
    Ok(Finished { status, stdout: text(&mut stdout)?, stderr: text(&mut stderr)? })
}

/// Waits for a child to end, and calls `meanwhile` with the time waited. Nothing if it had to be killed at `limit`.
///
/// # Errors
/// It is not a child any more.
pub fn wait(child: &mut Child, limit: Duration, mut meanwhile: impl FnMut(Duration)) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        meanwhile(start.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Like [`output`], for a command that has to succeed; returns its standard output.
///
/// # Errors
/// Those of [`output`], and an unsuccessful end, told with the last lines of what the program wrote.
pub fn must(command: &mut Command, limit: Duration) -> Result<String> {
    let finished = output(command, limit)?;
    if finished.status.success() {
        return Ok(finished.stdout);
    }
    let said = if finished.stderr.trim().is_empty() { &finished.stdout } else { &finished.stderr };
    bail!("`{}` failed ({}):\n{}", shown(command), finished.status, tail(said, 20));
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }

    #[test]
    fn a_failure_is_told_with_the_programs_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo because >&2; exit 3"]);
        let error = must(&mut command, Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("because") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let error = output(Command::new("sleep").arg("60"), Duration::from_millis(50)).err().unwrap();
        assert!(error.to_string().contains("did not end"));
    }
}
