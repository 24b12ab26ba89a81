//! The place where a page is tried: a namespace, a folder with what the repository has, and one shell for all of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::page::Step;

/// The longest that one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);
/// What a step prints is shown up to here.
const MAX_OUTPUT: usize = 8 << 10;

/// Where one page is tried.
pub struct Session {
    folder: TempDir,
    namespace: String,
    kubeconfig: PathBuf,
    /// What the last commands printed.
    output: String,
}

impl Session {
    /// A fresh namespace, and a folder that looks like `base`.
    ///
    /// # Errors
    /// The cluster or the disk does not take it.
    pub fn begin(base: &Path, namespace: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("docs-test-").tempdir()?;
        for entry in fs::read_dir(base)? {
            let entry = entry?;
            symlink(entry.path().canonicalize()?, folder.path().join(entry.file_name()))?;
        }
        let session = Self {
            kubeconfig: folder.path().join(".kubeconfig"),
            folder,
            namespace: namespace.to_owned(),
            output: String::new(),
        };
        let flat = Command::new("kubectl").args(["config", "view", "--raw", "--flatten"]).output()?;
        fs::write(&session.kubeconfig, flat.stdout)?;
        session.kubectl(&["create", "namespace", namespace])?;
        session.kubectl(&["config", "set-context", "--current", "--namespace", namespace])?;
        Ok(session)
    }

    /// Does one step of the page.
    ///
    /// # Errors
    /// It fails, takes too long, or does not print what the page says.
    pub fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Run(commands) => {
                self.output = self.run(commands)?;
                Ok(())
            }
            Step::Save { file, text } => Ok(fs::write(self.folder.path().join(file), text)?),
            Step::DryRun(resources) => {
                let file = self.folder.path().join(".dry-run.yaml");
                fs::write(&file, resources)?;
                self.kubectl(&["apply", "--dry-run=server", "-f", &file.to_string_lossy()])
            }
            Step::Prints(expected) if self.output.contains(expected) => Ok(()),
            Step::Prints(expected) => bail!("{expected:?} is not in what was printed:\n{}", self.output),
            // What it would have printed is not what the block before it printed.
            Step::Skip(_) => {
                self.output.clear();
                Ok(())
            }
        }
    }

    /// Runs commands as a shell of their own that has the variables of those before. What they leave in the background
    /// ends with the session.
    fn run(&self, commands: &str) -> anyhow::Result<String> {
        let (state, log) = (self.folder.path().join(".state"), self.folder.path().join(".log"));
        let state_path = state.display();
        let script = format!(
            "set -euo pipefail\n[ ! -f '{state_path}' ] || . '{state_path}'\n{commands}\ndeclare -p | grep -v '^declare -[a-z-]*r' >'{state_path}'\n"
        );
        let output = fs::File::create(&log)?;
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("bash")?;
        let deadline = Instant::now() + STEP_TIMEOUT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        fs::write(self.folder.path().join(format!(".group-{}", child.id())), "")?;
        let printed = String::from_utf8_lossy(&fs::read(&log)?).chars().take(MAX_OUTPUT).collect::<String>();
        match status {
            Some(status) if status.success() => Ok(printed),
            Some(status) => bail!("{status}\n--- commands\n{commands}--- output\n{printed}"),
            None => bail!("not done after {STEP_TIMEOUT:?}\n--- commands\n{commands}--- output\n{printed}"),
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new("kubectl").args(arguments).env("KUBECONFIG", &self.kubeconfig).output()?;
        if output.status.success() {
            return Ok(());
        }
        bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
    }

    /// What there is in the namespace, so that a person can see why a page failed.
    pub fn explain(&self) -> String {
        let output = Command::new("kubectl")
            .args(["get", "eventbrokers,eventtopics,eventhandlers,pods,events", "-o", "wide"])
            .env("KUBECONFIG", &self.kubeconfig)
            .output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let groups = fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        for entry in groups {
            if let Some(group) = entry.file_name().to_str().and_then(|name| name.strip_prefix(".group-")) {
                let _ = Command::new("kill").args(["--", &format!("-{group}")]).stderr(Stdio::null()).status();
            }
        }
        if std::env::var_os("E2E_KEEP").is_none() {
            let _ = self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        }
    }
}
