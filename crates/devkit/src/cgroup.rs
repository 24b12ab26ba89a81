//! A cgroup of the node's own in every hierarchy, version 1 and 2, and the node's view that shows nothing else.
//!
//! Whatever the kubelet and containerd create lies below it, so that removing it leaves the host as it was.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::progress::{Look, Progress};
use crate::state::State;

/// Where distributions mount cgroups.
const ROOT: &str = "/sys/fs/cgroup";
/// Version 2 allows processes only in leaves; the node's own live in this one.
const LEAF: &str = "init";
/// Version 2 controllers without which pods cannot have limits.
const REQUIRED: [&str; 3] = ["cpu", "memory", "pids"];

/// A mounted cgroup hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
    /// Version 1: its mount options, which name its controllers. Version 2: none.
    options: Option<String>,
}

/// The hierarchies of this machine.
///
/// # Errors
/// `/proc` cannot be read, or there are none.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let found = parse(&fs::read_to_string("/proc/self/mountinfo")?);
    anyhow::ensure!(!found.is_empty(), "no cgroups are mounted under {ROOT}");
    Ok(found)
}

/// Lines of `/proc/<pid>/mountinfo` (proc(5)): mount point is field 5, after ` - ` come type, source, options.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mount = PathBuf::from(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let options = match right.next()? {
            "cgroup" => Some(selecting(right.nth(1)?)),
            "cgroup2" => None,
            _ => return None,
        };
        mount.starts_with(ROOT).then_some(Hierarchy { mount, options })
    };
    mountinfo.lines().filter_map(hierarchy).collect()
}

/// Those of a version 1 hierarchy's mount options that say which one it is.
fn selecting(options: &str) -> String {
    let general = |option: &&str| !matches!(*option, "rw" | "ro") && !option.starts_with("release_agent=");
    options.split(',').filter(general).collect::<Vec<_>>().join(",")
}

impl Hierarchy {
    fn group(&self, state: &State) -> PathBuf {
        self.mount.join(format!("tidegate-{}", state.name))
    }

    /// Whether it is the only one: then its controllers have to be handed down, and processes live in leaves.
    fn is_unified(&self) -> bool {
        self.options.is_none() && self.mount == Path::new(ROOT)
    }
}

/// Makes the cluster's group in every hierarchy and moves this process into it.
///
/// # Errors
/// A group cannot be made or entered.
pub fn enter(state: &State) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.group(state);
        if hierarchy.is_unified() {
            let added = hand_down(&hierarchy.mount)?;
            fs::write(state.join("cgroup-controllers"), added.join(" "))?;
        }
        fs::create_dir_all(&group).with_context(|| format!("creating {}", group.display()))?;
        // A new cpuset has neither processors nor memory until it is given some.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = hierarchy.mount.join(file);
            if hierarchy.options.is_some() && parent.exists() {
                fs::write(group.join(file), fs::read(parent)?)?;
            }
        }
        join(&group)?;
    }
    Ok(())
}

/// Goes to a leaf of the group, so that the group can hand its controllers down to pods. To be called when the cgroup
/// namespace has its root at the group. Nothing to do in version 1.
///
/// # Errors
/// The leaf cannot be made or entered.
pub fn settle(state: &State) -> Result<()> {
    for hierarchy in hierarchies()?.iter().filter(|hierarchy| hierarchy.is_unified()) {
        let group = hierarchy.group(state);
        fs::create_dir_all(group.join(LEAF))?;
        join(&group.join(LEAF))?;
        hand_down(&group)?;
    }
    Ok(())
}

/// Mounts the hierarchies anew, so that each shows the node's group as its root. To be called in the node's namespaces.
///
/// # Errors
/// A mount failed.
pub fn remount() -> Result<()> {
    for hierarchy in hierarchies()? {
        umount2(&hierarchy.mount, MntFlags::MNT_DETACH)?;
        let kind = if hierarchy.options.is_some() { "cgroup" } else { "cgroup2" };
        mount(Some(kind), &hierarchy.mount, Some(kind), MsFlags::empty(), hierarchy.options.as_deref())
            .with_context(|| format!("mounting {kind} at {}", hierarchy.mount.display()))?;
    }
    Ok(())
}

/// Removes the cluster's groups. Their processes must have ended.
///
/// # Errors
/// A group is still busy after ten seconds.
pub fn remove(state: &State, progress: &Progress) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.group(state);
        let what = format!("the removal of {}", group.display());
        progress.wait(&what, Duration::from_secs(10), Duration::from_millis(20), || {
            Ok(match remove_tree(&group) {
                Ok(()) => Look::Ready(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
        if hierarchy.is_unified() {
            let added = fs::read_to_string(state.join("cgroup-controllers")).unwrap_or_default();
            for controller in added.split_whitespace() {
                // Another cluster may be using it by now; then it stays.
                fs::write(hierarchy.mount.join("cgroup.subtree_control"), format!("-{controller}")).ok();
            }
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn join(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).with_context(|| format!("entering {}", group.display()))
}

/// Gives the children of a version 2 group all controllers it has; returns those that were not given before. A machine
/// may not be able to give some (`cpuset` where tasks are pinned, for example): only those that limits need must be given.
fn hand_down(group: &Path) -> Result<Vec<String>> {
    let read = |file: &str| fs::read_to_string(group.join(file)).with_context(|| format!("{}/{file}", group.display()));
    let mut given = Vec::new();
    for controller in missing(&read("cgroup.controllers")?, &read("cgroup.subtree_control")?) {
        match fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")) {
            Ok(()) => given.push(controller),
            Err(error) if REQUIRED.contains(&controller.as_str()) => {
                return Err(error).with_context(|| format!("enabling {controller} below {}", group.display()));
            }
            Err(error) => eprintln!("cgroup controller {controller} is not available: {error}"),
        }
    }
    Ok(given)
}

fn missing(available: &str, enabled: &str) -> Vec<String> {
    let enabled: BTreeSet<&str> = enabled.split_whitespace().collect();
    available.split_whitespace().filter(|name| !enabled.contains(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_hierarchies_keep_their_options() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/a,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let hierarchy = |mount: &str, options: Option<&str>| Hierarchy {
            mount: Path::new(ROOT).join(mount),
            options: options.map(str::to_owned),
        };
        let expected = [
            hierarchy("cpu", Some("cpu,cpuacct")),
            hierarchy("systemd", Some("xattr,name=systemd")),
            hierarchy("unified", None),
        ];
        assert_eq!(parse(text), expected);
        assert!(expected.iter().all(|hierarchy| !hierarchy.is_unified()));
    }

    #[test]
    fn a_version_2_machine_has_one_unified_hierarchy() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let [only] = parse(text).try_into().unwrap();
        assert!(only.is_unified());
    }

    #[test]
    fn only_controllers_not_yet_given_are_missing() {
        assert_eq!(missing("cpuset cpu io memory pids\n", "cpu memory pids\n"), ["cpuset", "io"]);
        assert_eq!(missing("cpu\n", "cpu\n"), Vec::<String>::new());
    }

    #[test]
    fn a_tree_is_removed_from_its_leaves_up() {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path().join("group");
        fs::create_dir_all(group.join("kubepods/pod")).unwrap();
        remove_tree(&group).unwrap();
        assert!(!group.exists());
        remove_tree(&group).unwrap();
    }
}
