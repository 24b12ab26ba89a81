//! The few Debian packages that a node needs besides what we build ourselves.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::call;
use crate::progress::Progress;

/// runc runs containers; nft, iptables and conntrack are called by kube-proxy and the CNI plugins; ip sets up the node's
/// network; busybox is the helper image of the storage provisioner; gcc makes the pause program; nsenter enters the node.
const NEEDED: [&str; 9] =
    ["runc", "iptables", "nftables", "conntrack", "iproute2", "busybox-static", "gcc", "libc6-dev", "util-linux"];

/// Installs what is missing.
///
/// # Errors
/// Not a Debian system, or apt-get failed.
pub fn install(progress: &Progress) -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    progress.say(format!("installing Debian packages: {}", missing.join(" ")));
    let mut update = Command::new("apt-get");
    call::must(update.args(["update", "-qq"]), Duration::from_secs(300))?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
    call::must(&mut install, Duration::from_secs(600))?;
    Ok(())
}

fn missing() -> Result<Vec<&'static str>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]).args(NEEDED);
    // It ends with 1 when it does not know one of them, which is an answer, not a failure.
    let known = call::output(&mut query, Duration::from_secs(30))
        .context("this program needs a Debian system (dpkg-query)")?
        .stdout;
    Ok(not_installed(&known))
}

fn not_installed(known: &str) -> Vec<&'static str> {
    let installed = |package: &str| known.lines().any(|line| line == format!("{package} installed"));
    NEEDED.into_iter().filter(|package| !installed(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_removed_packages_are_missing() {
        let all: String = NEEDED.iter().map(|package| format!("{package} installed\n")).collect();
        assert_eq!(not_installed(&all), Vec::<&str>::new());
        let some = all.replace("gcc installed", "gcc config-files").replace("runc installed\n", "");
        assert_eq!(not_installed(&some), ["runc", "gcc"]);
    }
}
