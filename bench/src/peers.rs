//! Other people's programs that do the same: Go modules under `bench/peers`, each built once into a folder of the cache
//! that is named after its content.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::time::timeout;

use crate::report;

/// One build; daprd has six hundred packages.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// A Go module: the name of its folder and program, and its files.
struct Module {
    name: &'static str,
    files: [(&'static str, &'static str); 3],
}

macro_rules! module {
    ($name:literal) => {
        Module {
            name: $name,
            files: [
                ("go.mod", include_str!(concat!("../peers/", $name, "/go.mod"))),
                ("go.sum", include_str!(concat!("../peers/", $name, "/go.sum"))),
                ("main.go", include_str!(concat!("../peers/", $name, "/main.go"))),
            ],
        }
    };
}

const GO_CONSUMER: Module = module!("go-consumer");
const DAPRD: Module = module!("daprd");

/// Builds those that are not built. One that cannot be built is said, and has no rows.
///
/// # Errors
/// There is no place for the cache.
pub async fn build() -> anyhow::Result<()> {
    for module in [GO_CONSUMER, DAPRD] {
        if let Err(error) = module.build().await {
            report::note(&format!("{} cannot be built, and is left out: {error:#}", module.name));
        }
    }
    Ok(())
}

/// The Go consumer, if it is built.
pub fn go_consumer() -> Option<PathBuf> {
    GO_CONSUMER.built()
}

/// Dapr's sidecar, if it is built.
pub fn daprd() -> Option<PathBuf> {
    DAPRD.built()
}

impl Module {
    fn built(&self) -> Option<PathBuf> {
        let program = self.folder().ok()?.join(self.name);
        if program.exists() {
            return Some(program);
        }
        report::note(&format!("{} is not built (`tidegate-bench --build-peers`): its rows are left out", self.name));
        None
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
        let mut hash = Sha256::new();
        for part in self.files.iter().flat_map(|(name, text)| [*name, *text]) {
            hash.update(u64::try_from(part.len())?.to_le_bytes());
            hash.update(part);
        }
        let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(cache.join("tidegate").join(format!("peer-{}-{key}", self.name)))
    }

    async fn build(&self) -> anyhow::Result<()> {
        let folder = self.folder()?;
        if folder.join(self.name).exists() {
            return Ok(());
        }
        report::note(&format!("building {} from Go modules, once: some minutes", self.name));
        let (begun, source) = (Instant::now(), folder.join("src"));
        fs::create_dir_all(&source)?;
        for (name, text) in self.files {
            fs::write(source.join(name), text)?;
        }
        // Named last, so that half a build does not count.
        let half = folder.join("half");
        let mut go = Command::new("nice");
        go.args(["-n", "5", "go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(&half)
            .arg(".")
            .current_dir(&source)
            .envs([("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOGC", "400")])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let Ok(output) = timeout(LIMIT, go.output()).await else {
            bail!("not within {LIMIT:?}");
        };
        let output = output.context("go")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let end = said.lines().last().unwrap_or_default();
        ensure!(output.status.success(), "go build: {}: {end}", output.status);
        fs::rename(half, folder.join(self.name))?;
        report::note(&format!("built {} in {:.0} s", self.name, begun.elapsed().as_secs_f64()));
        Ok(())
    }
}
