//! The folder in which everything of `tidegate dev` is: events, keys, certificates, logs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use sha2::{Digest as _, Sha256};
use tidegate_broker_admin::Authority;
use tidegate_operator::identity::authority::Data;
use tidegate_operator::identity::keys;
use time::OffsetDateTime;

use crate::failure::Failure;

/// The file that is locked while `tidegate dev` runs.
const LOCK: &str = "lock";
/// The broker's root of trust.
const AUTHORITY: &str = "authority.json";
/// What `tidegate send` reads.
const RUNNING: &str = "running.json";

/// The folder, for this process alone.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    _lock: File,
}

/// Where the folders of all projects are: `$XDG_STATE_HOME/tidegate/dev`, or `~/.local/state/tidegate/dev`.
///
/// # Errors
/// Neither variable is set.
pub fn home() -> Result<PathBuf, Failure> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| Failure::Usage("HOME is not set: name a folder with --state".into()))?;
    Ok(state.join("tidegate/dev"))
}

/// The folder of a project, which is a folder of files.
///
/// # Errors
/// There is no such project.
pub fn folder_of(project: &Path) -> Result<PathBuf, Failure> {
    let folder = if project.is_dir() { project } else { project.parent().unwrap_or(Path::new("")) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = folder
        .canonicalize()
        .map_err(|error| Failure::Usage(format!("{}: {error}: name a YAML file, or a folder", folder.display())))?;
    let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // For people; the digest says which one it is.
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    Ok(home()?.join(format!("{name}-{digest}")))
}

impl State {
    /// Opens it; `fresh`: without what is in it.
    ///
    /// # Errors
    /// It cannot be made, or another `tidegate dev` has it.
    pub fn open(root: PathBuf, fresh: bool) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::Failed(format!("{}: {error}: name another folder with --state", root.display()))
        };
        make_folder(&root).map_err(failed)?;
        let lock = File::create(root.join(LOCK)).map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(Failure::Failed(format!(
                "another tidegate dev runs these files: end it, or name another folder with --state (this one is {})",
                root.display()
            )));
        }
        let state = Self { root, _lock: lock };
        if fresh {
            state.empty().map_err(Failure::failed)?;
        }
        Ok(state)
    }

    fn empty(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            match path.file_name() {
                Some(name) if name == LOCK => {}
                _ if path.is_dir() => fs::remove_dir_all(path)?,
                _ => fs::remove_file(path)?,
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder in it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.root.join(name);
        make_folder(&folder).map_err(|error| Failure::Failed(format!("{}: {error}", folder.display())))?;
        Ok(folder)
    }

    /// The broker's root of trust: that of the run before, by which its events can be read.
    ///
    /// # Errors
    /// It is damaged.
    pub fn authority(&self) -> Result<Authority, Failure> {
        let file = self.root.join(AUTHORITY);
        let Ok(text) = fs::read_to_string(&file) else {
            let authority = Authority::generate("tidegate dev", OffsetDateTime::now_utc()).map_err(Failure::failed)?;
            let text = serde_json::to_string(&keys::to_data(&authority)).map_err(Failure::failed)?;
            self.write(AUTHORITY, &text)?;
            return Ok(authority);
        };
        let damaged = || Failure::Failed(format!("{} is damaged: begin without its events by --fresh", file.display()));
        let data: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|_| damaged())?;
        let data = data.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))).collect();
        keys::from_secret(&Secret { data: Some(data), ..Secret::default() }).map_err(|_| damaged())
    }

    /// Writes a folder of files as the kubelet mounts a Secret.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_folder(&self, name: &str, files: &Data) -> Result<PathBuf, Failure> {
        let folder = self.folder(name)?;
        for (file, text) in files {
            self.write(&format!("{name}/{file}"), text)?;
        }
        Ok(folder)
    }

    /// Writes a file, for its owner's eyes only. Whoever reads it finds the old content or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.root.join(name);
        let new = self.root.join(format!("{name}.new"));
        let write = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
        Ok(path)
    }

    /// Says what runs, to `tidegate send`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_running(&self, text: &str) -> Result<(), Failure> {
        self.write(RUNNING, text).map(drop)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Nothing runs any more. Where the file cannot be removed, the lock says so, too.
        let _ = fs::remove_file(self.root.join(RUNNING));
    }
}

/// What runs in a folder, as [`State::write_running`] was told; `None`: nothing runs.
pub fn running(root: &Path) -> Option<String> {
    let lock = File::open(root.join(LOCK)).ok()?;
    // Shared, so that two that look do not take each other for a run.
    if lock.try_lock_shared().is_ok() {
        return None;
    }
    fs::read_to_string(root.join(RUNNING)).ok()
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_again_unless_it_is_to_be_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let open = |fresh| State::open(root.clone(), fresh).unwrap();
        let first = open(false).authority().unwrap();
        assert_eq!(open(false).authority().unwrap().root, first.root);
        assert_ne!(open(true).authority().unwrap().root, first.root);
        fs::write(root.join(AUTHORITY), "{}").unwrap();
        assert!(open(false).authority().err().unwrap().to_string().contains("--fresh"));
    }

    #[test]
    fn one_process_has_it_and_others_hear_what_runs() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let state = State::open(root.clone(), false).unwrap();
        assert!(State::open(root.clone(), false).unwrap_err().to_string().contains("--state"));
        state.write_running("this").unwrap();
        assert_eq!(running(&root).as_deref(), Some("this"));
        drop(state);
        assert_eq!(running(&root), None);
    }

    #[test]
    fn files_of_one_folder_are_one_project() {
        let folder = tempfile::tempdir().unwrap();
        let of = |path: PathBuf| folder_of(&path).map(|found| found.file_name().unwrap().to_owned());
        let own = of(folder.path().to_owned()).unwrap();
        assert_eq!(of(folder.path().join("a.yaml")).unwrap(), own);
        assert_ne!(of(".".into()).unwrap(), own);
        assert_eq!(of("a.yaml".into()).unwrap(), of(".".into()).unwrap());
        assert!(folder_of(Path::new("/nowhere/at/all/a.yaml")).is_err());
    }
}
