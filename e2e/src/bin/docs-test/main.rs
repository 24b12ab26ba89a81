//! Runs every block of the documentation as a reader would: on a real cluster with the chart installed, each page in a
//! namespace of its own. The last line says how many pages passed.

#[cfg(test)]
mod links;
mod page;
mod session;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;

use crate::page::Step;
use crate::session::Session;

/// Runs the documentation's commands against the cluster of KUBECONFIG; kubectl and helm are on the PATH.
#[derive(Parser)]
struct Args {
    /// The pages, Markdown.
    pages: Vec<PathBuf>,
    /// A release of the chart whose notes are a page too.
    #[arg(long)]
    release: Option<String>,
    /// The release's namespace.
    #[arg(long, default_value = "tidegate-system")]
    namespace: String,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut passed = 0;
    let mut failed = 0;
    let pages = args.pages.iter().map(|page| (page.display().to_string(), steps_of(page), folder_of(page)));
    let notes = args.release.iter().map(|release| {
        let name = format!("notes of {release}");
        (name, steps_of_notes(release, &args.namespace), PathBuf::from("."))
    });
    for (number, (name, steps, folder)) in notes.chain(pages).enumerate() {
        let steps = steps.with_context(|| name.clone())?;
        match try_page(&steps, &folder, &format!("docs-test-{}-{number}", std::process::id())) {
            Ok(()) => passed += 1,
            Err(error) => {
                failed += 1;
                eprintln!("{name}: {error:#}");
            }
        }
        let skipped: Vec<_> = steps
            .iter()
            .filter_map(|step| if let Step::Skip(reason) = step { Some(reason.as_str()) } else { None })
            .collect();
        eprintln!("{name}: {} steps, {} left out {skipped:?}", steps.len(), skipped.len());
    }
    writeln!(std::io::stdout(), "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn try_page(steps: &[Step], folder: &Path, namespace: &str) -> anyhow::Result<()> {
    let mut session = Session::begin(folder, namespace)?;
    for step in steps {
        session.step(step).with_context(|| session.explain())?;
    }
    Ok(())
}

fn steps_of(page: &Path) -> anyhow::Result<Vec<Step>> {
    page::steps(&std::fs::read_to_string(page)?)
}

fn steps_of_notes(release: &str, namespace: &str) -> anyhow::Result<Vec<Step>> {
    let output = Command::new("helm").args(["get", "notes", release, "--namespace", namespace]).output()?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr).trim());
    let commands = page::commands_of_notes(&String::from_utf8_lossy(&output.stdout));
    ensure!(!commands.is_empty(), "the notes show no command");
    Ok(vec![Step::Run(commands)])
}

/// A page is read where it lies; what lies at the top or in docs/ speaks of the repository's top.
fn folder_of(page: &Path) -> PathBuf {
    match page.parent() {
        Some(parent) if parent.starts_with("manifests") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
