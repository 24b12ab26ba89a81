//! What a cluster is and does, for a person.

use std::fmt::Write;
use std::fs;

use anyhow::Result;

use crate::cluster::{Health, health};
use crate::inside::Cluster;

/// Describes the cluster. The first line is one of `absent`, `broken: <reason>` and `running`.
///
/// # Errors
/// kubectl cannot be run.
pub fn describe(cluster: &Cluster<'_>) -> Result<String> {
    let mut text = String::new();
    match health(cluster)? {
        Health::Absent => return Ok("absent\n".into()),
        Health::Broken(reason) => writeln!(text, "broken: {reason}")?,
        Health::Running(port) => writeln!(text, "running\nAPI         https://127.0.0.1:{port}")?,
    }
    writeln!(text, "KUBECONFIG  {}", cluster.state.kubeconfig().display())?;
    writeln!(text, "logs        {}", cluster.state.text("log"))?;
    let loaded = fs::read(cluster.state.join("loaded.json")).unwrap_or_default();
    let loaded: serde_json::Map<_, _> = serde_json::from_slice(&loaded).unwrap_or_default();
    for image in loaded.keys() {
        writeln!(text, "image       {image}")?;
    }
    if let Ok(pods) = cluster.ask(&["get", "pods", "--all-namespaces", "--no-headers"])? {
        writeln!(text, "pods        {}", pods.lines().count())?;
    }
    Ok(text)
}
