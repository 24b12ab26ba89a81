//! The programs that `tidegate dev` starts: each in a process group of its own, so that a Ctrl-C of the terminal ends this
//! program alone, which then ends them in order.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::keeper::Keeper;
use crate::failure::Failure;
use crate::terminal::MAX_LINE;

/// A line that a program wrote.
#[derive(Debug)]
pub struct Line {
    /// The program's name.
    pub program: String,
    /// The line, as it was written.
    pub text: String,
    /// Whether the program is the user's.
    pub is_users: bool,
}

/// Where the lines of programs go.
#[derive(Clone, Debug)]
pub struct Output {
    /// To whoever shows them.
    pub lines: mpsc::Sender<Line>,
    /// The folder in which each of our programs has a file of all its lines; `None`: they are of the user's program.
    pub logs: Option<PathBuf>,
}

/// The file in this folder of the lines of a program with this name.
pub fn log_file(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{}.log", name.replace(' ', "-")))
}

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    /// What it is called here.
    pub name: String,
    child: Child,
    group: Pid,
    keeper: Keeper,
}

impl Process {
    /// Starts a program.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start(
        name: &str,
        program: &Path,
        prepare: impl FnOnce(&mut Command),
        output: &Output,
        keeper: &Keeper,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        prepare(&mut command);
        let started = command.kill_on_drop(true).spawn();
        let mut child = started
            .map_err(|error| Failure::Usage(format!("{}: {error}: is it the right program?", program.display())))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let group = group.ok_or_else(|| Failure::Program(format!("{name} ended at once")))?;
        keeper.add(group);
        let log = output.logs.as_ref().map(|logs| log_file(logs, name));
        let log = log.and_then(|log| File::options().create(true).append(true).open(log).ok());
        if let Some(out) = child.stdout.take() {
            tokio::spawn(read(name.to_owned(), out, log.as_ref().and_then(|log| log.try_clone().ok()), output.clone()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(read(name.to_owned(), err, log, output.clone()));
        }
        Ok(Self { name: name.to_owned(), child, group, keeper: keeper.clone() })
    }

    /// How it ended by itself; `None`: it runs.
    pub fn try_ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(status) => status.map(describe),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Sends its whole group a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = killpg(self.group, signal);
    }

    /// Ends it: in order if that takes no longer than this, by force otherwise. What it started is ended by force.
    pub async fn end(mut self, patience: Duration) {
        if !patience.is_zero() {
            self.signal(Signal::SIGTERM);
            // Whether it did is seen below.
            let _ = timeout(patience, self.child.wait()).await;
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().await;
        self.keeper.remove(self.group);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Passes lines on, bounded, until the program ends.
async fn read(program: String, from: impl AsyncRead + Unpin, mut log: Option<File>, output: Output) {
    let mut reader = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        if let Some(log) = &mut log {
            // A log that cannot be written stops no event.
            let _ = log.write_all(&line);
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
        let line = Line { program: program.clone(), text, is_users: output.logs.is_none() };
        if output.lines.send(line).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> (Process, mpsc::Receiver<Line>) {
        let (lines, received) = mpsc::channel(16);
        let output = Output { lines, logs: None };
        let arguments = |command: &mut Command| {
            command.args(["-c", script]);
        };
        let keeper = Keeper::none();
        (Process::start("it", Path::new("/bin/sh"), arguments, &output, &keeper).unwrap(), received)
    }

    #[tokio::test]
    async fn its_lines_are_passed_on_and_its_end_is_told() {
        let (mut process, mut lines) = shell("echo one; echo two >&2; exit 3");
        let mut texts = vec![lines.recv().await.unwrap().text, lines.recv().await.unwrap().text];
        texts.sort();
        assert_eq!(texts, ["one", "two"]);
        assert!(lines.recv().await.is_none());
        let mut how = None;
        while how.is_none() {
            how = process.try_ended();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(how.unwrap(), "exit code 3");
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended_with_all_that_it_started() {
        let (process, mut lines) = shell("trap '' TERM; (sleep 60) & echo $!; while :; do sleep 60; done");
        let child: i32 = lines.recv().await.unwrap().text.parse().unwrap();
        let begun = Instant::now();
        process.end(Duration::from_millis(200)).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
        let gone = async || nix::sys::signal::kill(Pid::from_raw(child), None).is_err();
        // Init takes what has no parent, in its own time.
        for _ in 0..100 {
            if gone().await || is_zombie(child) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{child} is still there");
    }

    fn is_zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let (lines, _) = mpsc::channel(1);
        let output = Output { lines, logs: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let error = Process::start("it", Path::new("/nowhere/it"), |_| {}, &output, &Keeper::none()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/it") && error.code() == 2, "{error}");
    }
}
