//! Images without a registry: the two every cluster needs, made here, and the import of archives into a node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use time::OffsetDateTime;

use crate::archive::{self, Content, Image};
use crate::call;
use crate::inside::Cluster;
use crate::progress::Progress;
use crate::state::State;

/// The image of every pod's sandbox.
pub const PAUSE_IMAGE: &str = "localhost/tidegate/pause:1";
/// A shell, for the storage provisioner's helper pods and for tests.
pub const HELPER_IMAGE: &str = "localhost/tidegate/busybox:1";

const IMPORT_LIMIT: Duration = Duration::from_secs(600);

/// What a sandbox runs: waits for ever, ends when told to.
const PAUSE: &str = "#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
";

/// The programs of busybox that helper pods and tests use.
const APPLETS: [&str; 14] =
    ["cat", "echo", "hostname", "id", "ls", "mkdir", "nc", "nslookup", "printf", "rm", "sh", "sleep", "touch", "wget"];

/// Makes the pause and the helper image; returns the archives.
///
/// # Errors
/// No compiler, no busybox, or the archives cannot be written.
pub fn base(state: &State) -> Result<[PathBuf; 2]> {
    let folder = state.join("images");
    let source = folder.join("pause.c");
    let pause = folder.join("pause");
    fs::write(&source, PAUSE)?;
    let mut compiler = Command::new("gcc");
    call::must(compiler.args(["-static", "-Os", "-s", "-o"]).arg(&pause).arg(&source), Duration::from_secs(60))?;
    let pause = Image {
        name: PAUSE_IMAGE.into(),
        entrypoint: vec!["/pause".into()],
        user: archive::NOBODY.into(),
        architecture: archive::host_architecture(),
        created: OffsetDateTime::UNIX_EPOCH,
        files: BTreeMap::from([("/pause".into(), Content::File(pause))]),
    };
    let mut files = BTreeMap::from([("/bin/busybox".to_owned(), Content::File("/bin/busybox".into()))]);
    files.extend(APPLETS.map(|applet| (format!("/bin/{applet}"), Content::Link("busybox".into()))));
    // As root: the helper pods make the folders of volumes on the node.
    let helper = Image {
        name: HELPER_IMAGE.into(),
        entrypoint: vec!["/bin/sleep".into(), "100000".into()],
        user: "0:0".into(),
        architecture: archive::host_architecture(),
        created: OffsetDateTime::UNIX_EPOCH,
        files,
    };
    Ok([write(&pause, folder.join("pause.tar"))?, write(&helper, folder.join("busybox.tar"))?])
}

fn write(image: &Image, path: PathBuf) -> Result<PathBuf> {
    let file = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    image.write(file)?;
    Ok(path)
}

/// Imports archives into the node's containerd, except those whose content it already has under the same names.
///
/// # Errors
/// The node does not run, or containerd refused an archive.
pub fn load(cluster: &Cluster<'_>, archives: &[impl AsRef<Path>], progress: &Progress) -> Result<()> {
    let record = cluster.state.join("loaded.json");
    for path in archives {
        let path = path.as_ref();
        let image = archive::identify(path)?;
        // By name: an older content of a name may have been loaded before and replaced since.
        let mut loaded: BTreeMap<String, String> =
            fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if image.tags.iter().all(|tag| loaded.get(tag) == Some(&image.digest)) {
            progress.say(format!("{} is loaded already", image.tags.join(", ")));
            continue;
        }
        // Through standard input, because the node may not see the file.
        let mut import = cluster.inside()?;
        import.args(["ctr", "--namespace", "k8s.io", "images", "import", "-"]).stdin(Stdio::from(File::open(path)?));
        call::must(&mut import, IMPORT_LIMIT)?;
        progress.say(format!("loaded {}", image.tags.join(", ")));
        loaded.extend(image.tags.into_iter().map(|tag| (tag, image.digest.clone())));
        fs::write(&record, serde_json::to_vec_pretty(&loaded)?)?;
    }
    Ok(())
}
