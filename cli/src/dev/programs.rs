//! Where the programs are that make a broker and a handler's sidecar.

use std::path::{Path, PathBuf};

use tidegate_cluster::modules;
use tidegate_cluster::progress::Progress;
use tidegate_cluster::state::Cache;

use crate::failure::Failure;

/// Names another nats-server.
pub const NATS_SERVER: &str = "NATS_SERVER";

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// nats-server.
    pub nats_server: PathBuf,
    /// The ingress.
    pub ingress: PathBuf,
    /// The sidecar.
    pub sidecar: PathBuf,
}

impl Programs {
    /// Finds them: nats-server as `NATS_SERVER` says, on `PATH`, or built once from its Go module; the others in a folder,
    /// or beside this program.
    ///
    /// # Errors
    /// One is not there; the message says how to get it.
    pub fn find(folder: Option<&Path>) -> Result<Self, Failure> {
        let own = std::env::current_exe().map_err(Failure::failed)?;
        let folder = folder.or_else(|| own.parent()).unwrap_or(Path::new("."));
        Ok(Self {
            ingress: beside(folder, "tidegate-ingress")?,
            sidecar: beside(folder, "tidegate-handler-sidecar")?,
            nats_server: nats_server(|name| std::env::var_os(name))?,
        })
    }
}

fn beside(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let program = folder.join(name);
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::Usage(format!(
        "{} is not there: build it (cargo build --workspace --bins), or name the folder that has it with --programs",
        program.display()
    )))
}

fn nats_server(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, Failure> {
    if let Some(named) = variable(NATS_SERVER).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return if named.is_file() {
            Ok(named)
        } else {
            Err(Failure::Usage(format!("{NATS_SERVER} names {}, which is not there: correct it", named.display())))
        };
    }
    let path = variable("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|program| program.is_file());
    if let Some(found) = found {
        return Ok(found);
    }
    let build = || modules::nats_server(&Cache::open()?, &Progress::start());
    build().map_err(|error| {
        Failure::Failed(format!(
            "nats-server: {error:#}; or install nats-server 2.15.2 or newer on PATH, or name it in {NATS_SERVER}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_or_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nats-server");
        std::fs::write(&program, "").unwrap();
        let variables = |named: &str, path: &Path| {
            let (named, path) = (named.to_owned(), path.to_owned());
            nats_server(move |name| Some(if name == "PATH" { path.clone().into() } else { named.clone().into() }))
        };
        assert_eq!(variables("", folder.path()).unwrap(), program);
        assert_eq!(variables(&program.to_string_lossy(), Path::new("")).unwrap(), program);
        assert!(variables("/nowhere", folder.path()).unwrap_err().to_string().contains("NATS_SERVER names /nowhere"));
        assert!(beside(folder.path(), "tidegate-ingress").unwrap_err().to_string().contains("--programs"));
    }
}
