//! The Go modules a cluster is made of.
//!
//! Each is a committed `go.mod` and `go.sum` (so every byte is pinned), embedded here and built into a folder of the cache
//! that is named after their hash. All downloads run at once, builds one after the other: they use all cores themselves.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::call;
use crate::progress::Progress;
use crate::state::Cache;

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const NEXT_WORDS: Duration = Duration::from_secs(30);

/// One Go module and the programs it gives.
pub struct Module {
    /// Its folder under `modules/`.
    pub name: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// What `go install` builds: `tool` for the tools of go.mod, `.` for a program of its own.
    target: &'static str,
    ldflags: &'static str,
    /// The programs, under the names we call them by.
    pub programs: &'static [&'static str],
    /// Programs that Go names otherwise: from, to.
    renamed: &'static [(&'static str, &'static str)],
}

macro_rules! files {
    ($module:literal, $($file:literal),+) => {
        &[$(($file, include_str!(concat!("../modules/", $module, "/", $file)))),+]
    };
}

/// What the node itself runs comes first; `collector` is for tests, `kwok` for the scale test alone, `kube-1.29` for a look at
/// the oldest Kubernetes that is supported.
pub const MODULES: [Module; 6] = [
    Module {
        name: "parts",
        files: files!("parts", "go.mod", "go.sum"),
        target: "tool",
        ldflags: "-s -w",
        programs: &[
            "etcd",
            "containerd",
            "containerd-shim-runc-v2",
            "ctr",
            "host-local",
            "loopback",
            "ptp",
            "portmap",
            "coredns",
            "nats-server",
            "helm",
        ],
        renamed: &[("server", "etcd")],
    },
    Module {
        name: "kube",
        files: files!("kube", "go.mod", "go.sum"),
        target: "tool",
        // Charts look at the version; without these it reads v0.0.0-master.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 \
                  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37",
        programs: &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"],
        renamed: &[],
    },
    Module {
        name: "storage",
        files: files!("storage", "go.mod", "go.sum"),
        target: "tool",
        ldflags: "-s -w",
        programs: &["local-path-provisioner"],
        renamed: &[],
    },
    Module {
        name: "collector",
        files: files!("collector", "go.mod", "go.sum", "main.go"),
        target: ".",
        ldflags: "-s -w",
        programs: &["otelcol"],
        renamed: &[],
    },
    Module {
        name: "kwok",
        files: files!("kwok", "go.mod", "go.sum"),
        target: "tool",
        ldflags: "-s -w",
        programs: &["kwok"],
        renamed: &[],
    },
    Module {
        name: "kube-1.29",
        files: files!("kube-1.29", "go.mod", "go.sum"),
        target: "tool",
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.29.15 \
                  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=29",
        programs: &["kube-apiserver-1.29"],
        renamed: &[("kube-apiserver", "kube-apiserver-1.29")],
    },
];

/// The modules that are built only if they are named: minutes that most people never need.
const ON_REQUEST: [&str; 2] = ["kwok", "kube-1.29"];

/// nats-server alone, for whoever needs no cluster: the same version as in `parts`, in a minute instead of ten.
const BROKER: Module = Module {
    name: "broker",
    target: "github.com/nats-io/nats-server/v2",
    programs: &["nats-server"],
    renamed: &[],
    ..MODULES[0]
};

/// The modules a node needs.
pub const NODE: [&str; 3] = ["parts", "kube", "storage"];

impl Module {
    /// The modules with these names, in the order of [`MODULES`]; if no name is given, all but [`ON_REQUEST`].
    ///
    /// # Errors
    /// A name that is none.
    pub fn named(names: &[impl AsRef<str>]) -> Result<Vec<&'static Self>> {
        let known = |name: &str| MODULES.iter().any(|module| module.name == name);
        if let Some(unknown) = names.iter().find(|name| !known(name.as_ref())) {
            let all = MODULES.map(|module| module.name).join(", ");
            bail!("there is no module `{}`; there are {all}", unknown.as_ref());
        }
        let wanted = |module: &&Self| match names {
            [] => !ON_REQUEST.contains(&module.name),
            names => names.iter().any(|name| name.as_ref() == module.name),
        };
        Ok(MODULES.iter().filter(wanted).collect())
    }

    /// Names the content: files and flags, so that a change of either is another folder.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in self.files.iter().flat_map(|(name, text)| [*name, *text]).chain([self.target, self.ldflags]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn folder(&self, cache: &Cache) -> PathBuf {
        cache.join(&format!("{}-{}", self.name, self.key()))
    }

    /// The folder of its programs, whether built or not.
    pub fn bin(&self, cache: &Cache) -> PathBuf {
        self.folder(cache).join("bin")
    }

    /// Whether it is built. The marker is written last, so half a build does not count.
    fn finished(&self, cache: &Cache) -> bool {
        self.folder(cache).join("finished").exists()
    }

    fn download(&self, cache: &Cache, progress: &Progress) -> Result<()> {
        self.write(cache)?;
        self.go(cache, progress, "download", &["mod", "download"], DOWNLOAD_LIMIT)
    }

    /// Writes its files into a folder that has nothing else.
    fn write(&self, cache: &Cache) -> Result<()> {
        let folder = self.folder(cache);
        fs::remove_dir_all(&folder).or_else(|error| if folder.exists() { Err(error) } else { Ok(()) })?;
        fs::create_dir_all(folder.join("src"))?;
        for (name, text) in self.files {
            fs::write(folder.join("src").join(name), text)?;
        }
        Ok(())
    }

    fn build(&self, cache: &Cache, progress: &Progress) -> Result<()> {
        let arguments = ["install", "-buildvcs=false", "-trimpath", "-ldflags", self.ldflags, self.target];
        self.go(cache, progress, "build", &arguments, BUILD_LIMIT)?;
        for (from, to) in self.renamed {
            fs::rename(self.bin(cache).join(from), self.bin(cache).join(to))?;
        }
        for program in self.programs {
            let path = self.bin(cache).join(program);
            path.metadata().with_context(|| format!("module {} did not give {}", self.name, path.display()))?;
        }
        Ok(fs::write(self.folder(cache).join("finished"), "")?)
    }

    fn command(&self, cache: &Cache, arguments: &[&str]) -> Command {
        // A polite build leaves the machine usable.
        let mut command = Command::new("nice");
        command.args(["-n", "5", "go"]).args(arguments).current_dir(self.folder(cache).join("src"));
        // The compiler collects less of its garbage: a build is short, and its memory is given back.
        command
            .envs([("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOGC", "400")])
            .env("GOBIN", self.bin(cache))
            .stdin(Stdio::null());
        command
    }

    /// Runs Go in the module's folder. What it says is in a file, and shown only when it fails.
    fn go(&self, cache: &Cache, progress: &Progress, what: &str, arguments: &[&str], limit: Duration) -> Result<()> {
        let log = self.folder(cache).join(format!("{what}.log"));
        let output = File::create(&log)?;
        let start = Instant::now();
        let mut child = self.command(cache, arguments).stdout(output.try_clone()?).stderr(output).spawn()?;
        let mut next_word = NEXT_WORDS;
        let status = call::wait(&mut child, limit, |waited| {
            if waited > next_word {
                progress.say(format!("{what} of {} still runs, {} s", self.name, waited.as_secs()));
                next_word += NEXT_WORDS;
            }
        })?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        let Some(status) = status else {
            bail!("{what} of {} took more than {} minutes, see {}", self.name, limit.as_secs() / 60, log.display());
        };
        if !status.success() {
            bail!(
                "{what} of {} failed ({status}); the end of {}:\n{}",
                self.name,
                log.display(),
                call::tail(&said, 30)
            );
        }
        progress.say(format!("{what} of {} done, {:.0} s", self.name, start.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// Builds those of the modules that are not built.
///
/// # Errors
/// No usable Go, a failed download, a failed build.
pub fn ensure(cache: &Cache, modules: &[&'static Module], progress: &Progress) -> Result<()> {
    if modules.iter().all(|module| module.finished(cache)) {
        return Ok(());
    }
    check_go()?;
    let _lock = lock(cache, progress)?;
    let missing: Vec<_> = modules.iter().filter(|module| !module.finished(cache)).collect();
    let names: Vec<_> = missing.iter().map(|module| module.name).collect();
    progress.say(format!("building from Go modules, once: {}", names.join(", ")));
    thread::scope(|scope| {
        let start = |module| (module, scope.spawn(move || Module::download(module, cache, progress)));
        let downloads: Vec<_> = missing.iter().map(|module| start(**module)).collect();
        for (module, download) in downloads {
            download.join().map_err(|_| anyhow!("the download of {} panicked", module.name))??;
            module.build(cache, progress)?;
        }
        Ok(())
    })
}

/// One build at a time: a second one waits here and then finds everything built. The lock ends with the file.
fn lock(cache: &Cache, progress: &Progress) -> Result<File> {
    let lock = File::create(cache.join("build.lock"))?;
    if lock.try_lock().is_err() {
        progress.say("waiting for another build in the same cache");
        lock.lock()?;
    }
    Ok(lock)
}

/// The path of a nats-server of the pinned version; it is built if it is not there yet.
///
/// # Errors
/// No usable Go, a failed download, a failed build.
pub fn nats_server(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let [parts, ..] = &MODULES;
    let found = |module: &Module| module.finished(cache).then(|| module.bin(cache).join("nats-server"));
    if let Some(program) = found(parts).or_else(|| found(&BROKER)) {
        return Ok(program);
    }
    check_go()?;
    let _lock = lock(cache, progress)?;
    if !BROKER.finished(cache) {
        progress.say("building nats-server from its Go module, once: a minute or two");
        // Without a download of its own: that would fetch what all the other programs of the module are made of.
        BROKER.write(cache)?;
        BROKER.build(cache, progress)?;
    }
    Ok(BROKER.bin(cache).join("nats-server"))
}

/// The folders of the modules' programs, as the beginning of a `PATH`.
pub fn path(cache: &Cache, modules: &[&Module]) -> String {
    let folders = modules.iter().map(|module| module.bin(cache).to_string_lossy().into_owned());
    folders.collect::<Vec<_>>().join(":")
}

/// The path of a built program.
///
/// # Errors
/// No module gives it, or it is not built yet.
pub fn program(cache: &Cache, name: &str) -> Result<PathBuf> {
    let module = MODULES.iter().find(|module| module.programs.contains(&name));
    let module = module.with_context(|| format!("no module gives a program `{name}`"))?;
    if !module.finished(cache) {
        bail!("{name} is not built yet: run `tidegate-cluster tools --only {}`", module.name);
    }
    Ok(module.bin(cache).join(name))
}

fn check_go() -> Result<()> {
    let mut version = Command::new("go");
    call::must(version.arg("version"), Duration::from_secs(30))
        .context("it is built from Go modules: install Go 1.26.6 or newer and put it on PATH")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Module = Module {
        name: "one",
        files: &[("go.mod", "module a"), ("go.sum", "")],
        target: "tool",
        ldflags: "-s",
        programs: &["a"],
        renamed: &[],
    };

    #[test]
    fn the_key_names_files_and_flags() {
        let key = ONE.key();
        assert_eq!(key.len(), 16);
        assert_eq!(key, ONE.key());
        let changed = [
            Module { files: &[("go.mod", "module a"), ("go.sum", "x")], ..ONE },
            Module { files: &[("go.mod", "module ag"), ("o.sum", "")], ..ONE },
            Module { ldflags: "-w", ..ONE },
            Module { target: ".", ..ONE },
        ];
        for other in changed {
            assert_ne!(key, other.key());
        }
    }

    #[test]
    fn modules_are_chosen_by_name() {
        let names = |names: &[&str]| Module::named(names).unwrap().iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["parts", "kube", "storage", "collector"]);
        assert_eq!(names(&["kube", "parts"]), ["parts", "kube"]);
        assert_eq!(names(&["kube-1.29", "kwok"]), ["kwok", "kube-1.29"], "only on request");
        let error = Module::named(&["cube"]).err().unwrap().to_string();
        assert!(error.contains("cube") && error.contains("storage"), "{error}");
    }

    #[test]
    fn every_program_has_one_module_and_every_tool_is_pinned() {
        let all: Vec<_> = MODULES.iter().flat_map(|module| module.programs).collect();
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), unique.len());
        for module in &MODULES {
            assert!(
                module.files.iter().any(|(name, text)| *name == "go.sum" && text.contains("h1:")),
                "{}",
                module.name
            );
        }
    }

    #[test]
    fn a_nats_server_on_its_own_is_the_one_of_the_cluster_and_found_where_that_is_built() {
        assert_eq!(BROKER.files, MODULES[0].files);
        assert_ne!(BROKER.key(), MODULES[0].key());
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        for module in [&BROKER, &MODULES[0]] {
            fs::create_dir_all(module.folder(&cache)).unwrap();
            fs::write(module.folder(&cache).join("finished"), "").unwrap();
            assert_eq!(nats_server(&cache, &Progress::start()).unwrap(), module.bin(&cache).join("nats-server"));
        }
    }

    #[test]
    fn a_program_that_is_not_built_says_how_to_build_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let error = program(&cache, "kubectl").unwrap_err().to_string();
        assert!(error.contains("tools --only kube"), "{error}");
    }
}
