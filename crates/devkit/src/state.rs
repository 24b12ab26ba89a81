//! Where things are: the cache with the built programs, and the state of one cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Folders that the node covers with its own, so that nothing of them may be needed inside.
const COVERED: [&str; 5] = ["/var/lib", "/var/log", "/run", "/proc", "/sys"];

/// The folder outside the checkout that holds built programs and clusters: `$TIDEGATE_CACHE`, or `~/.cache/tidegate`.
pub struct Cache(PathBuf);

impl Cache {
    /// Finds it, and creates it if it is not there.
    ///
    /// # Errors
    /// No home folder, or one that the node could not use.
    pub fn open() -> Result<Self> {
        let path = match (std::env::var_os("TIDEGATE_CACHE"), std::env::var_os("HOME")) {
            (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home)) => Path::new(&home).join(".cache/tidegate"),
            _ => bail!("neither TIDEGATE_CACHE nor HOME is set: where shall the cache be?"),
        };
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        let path = path.canonicalize()?;
        if let Some(covered) = COVERED.iter().find(|covered| path.starts_with(covered)) {
            bail!("the cache {} is under {covered}, which the node replaces: set TIDEGATE_CACHE", path.display());
        }
        Ok(Self(path))
    }

    /// A cache in this folder, for tests.
    #[cfg(test)]
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// A folder or file of the cache.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The state of the cluster with this name.
    ///
    /// # Errors
    /// The name would not do for a cgroup and a folder.
    pub fn cluster(&self, name: &str) -> Result<State> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            (1..=40).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-'),
            "--name {name}: use 1 to 40 lower-case letters, digits and `-`"
        );
        Ok(State { name: name.to_owned(), root: self.0.join("cluster").join(name) })
    }
}

/// The folder of one cluster. Everything a cluster writes is in it, and `down` removes it.
#[derive(Clone)]
pub struct State {
    /// The cluster's name.
    pub name: String,
    /// The folder.
    pub root: PathBuf,
}

/// A program of the node that ended although it should not have.
#[derive(Debug, PartialEq, Eq)]
pub struct Death {
    /// Its name, which is also that of its log.
    pub program: String,
    /// How it ended.
    pub how: String,
}

impl State {
    /// A path below the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The same as text, for configuration files.
    pub fn text(&self, name: &str) -> String {
        self.join(name).to_string_lossy().into_owned()
    }

    /// The log of a program of the node (or of `keeper` and `node`, our own two).
    pub fn log(&self, program: &str) -> PathBuf {
        self.root.join("log").join(program)
    }

    /// The administrator's kubeconfig. It is good outside and inside the node.
    pub fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    /// Record of the process outside that holds the node and forwards its API port.
    pub fn keeper(&self) -> PathBuf {
        self.join("keeper.pid")
    }

    /// Record of the node's first process.
    pub fn node(&self) -> PathBuf {
        self.join("node.pid")
    }

    /// Notes that a program of the node ended.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_death(&self, death: &Death) -> Result<()> {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.join("deaths"))?;
        Ok(writeln!(file, "{}\t{}", death.program, death.how)?)
    }

    /// The programs of the node that ended.
    pub fn deaths(&self) -> Vec<Death> {
        let text = fs::read_to_string(self.join("deaths")).unwrap_or_default();
        let death = |line: &str| {
            let (program, how) = line.split_once('\t')?;
            Some(Death { program: program.to_owned(), how: how.to_owned() })
        };
        text.lines().filter_map(death).collect()
    }

    /// Creates the folders a new node needs.
    ///
    /// # Errors
    /// One cannot be created.
    pub fn create(&self) -> Result<()> {
        for folder in ["etc/cni", "pki", "log", "images", "var/lib", "var/log", "var/volumes", "var/opt", "var/etcd"] {
            fs::create_dir_all(self.join(folder)).with_context(|| format!("creating {}", self.text(folder)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        let cache = Cache(PathBuf::from("/cache"));
        assert_eq!(cache.cluster("a-1").unwrap().root, Path::new("/cache/cluster/a-1"));
        for name in ["", "..", "a/b", "A", "-a", &"a".repeat(41)] {
            assert!(cache.cluster(name).is_err(), "{name}");
        }
    }

    #[test]
    fn deaths_are_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let state = State { name: "test".into(), root: folder.path().into() };
        assert_eq!(state.deaths(), []);
        let death = |program: &str| Death { program: program.into(), how: "exit status 1".into() };
        state.add_death(&death("etcd")).unwrap();
        state.add_death(&death("kubelet")).unwrap();
        assert_eq!(state.deaths(), [death("etcd"), death("kubelet")]);
    }
}
