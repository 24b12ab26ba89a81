//! A test of the cluster itself, with everything Tidegate needs of one.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::call;
use crate::config::DNS_IP;
use crate::diagnose;
use crate::inside::Cluster;
use crate::progress::{Look, Progress};

const NAMESPACE: &str = "--namespace=tidegate-smoke";
const CALL: Duration = Duration::from_secs(60);
/// How long the cluster may take to do something.
const LONG: Duration = Duration::from_secs(300);
const PERIOD: Duration = Duration::from_millis(200);

/// Runs it and removes what it made.
///
/// # Errors
/// What did not work, after a diagnosis.
pub fn run(cluster: &Cluster<'_>, progress: &Progress) -> Result<()> {
    let outcome = check(cluster, progress).inspect_err(|_| diagnose::print(cluster));
    remove(cluster, progress)?;
    progress.say("smoke: removed, volumes too");
    outcome
}

/// In this order, because a namespace waits fifteen seconds for what protects its volumes.
fn remove(cluster: &Cluster<'_>, progress: &Progress) -> Result<()> {
    let steps: [&[&str]; 3] = [
        &["delete", "statefulset", "smoke", "--cascade=foreground", "--ignore-not-found", NAMESPACE],
        &["delete", "persistentvolumeclaims", "--all", NAMESPACE],
        &["delete", "namespace", "tidegate-smoke", "--ignore-not-found"],
    ];
    for step in steps {
        call::must(&mut cluster.kubectl(step), LONG)?;
    }
    let claims = ["get", "persistentvolumes", "--output=jsonpath={.items[*].spec.claimRef.namespace}"];
    progress.wait("the removal of the volumes", LONG, PERIOD, || {
        let left = call::must(&mut cluster.kubectl(&claims), CALL)?;
        Ok(if left.contains("tidegate-smoke") { Look::NotYet("still there".into()) } else { Look::Ready(()) })
    })
}

fn check(cluster: &Cluster<'_>, progress: &Progress) -> Result<()> {
    let file = cluster.state.join("etc/smoke.yaml");
    fs::write(&file, include_str!("smoke.yaml"))?;
    call::must(&mut cluster.kubectl(&["apply", "--filename", &file.to_string_lossy()]), CALL)?;
    let mut rollout = cluster.kubectl(&["rollout", "status", "statefulset/smoke", "--timeout=280s", NAMESPACE]);
    call::must(&mut rollout, LONG)?;
    progress.say("smoke: two restricted pods run, each with a native sidecar and a volume it can write");

    let shell = |script: &str| {
        let exec = ["exec", "smoke-0", "--container=main", NAMESPACE, "--", "/bin/sh", "-c", script];
        call::must(&mut cluster.kubectl(&exec), CALL)
    };
    let user = shell("id -u && ls /data/written")?;
    ensure!(user.trim() == "65532\n/data/written", "unexpected: {user}");
    let address = ["get", "service", "smoke", "--output=jsonpath={.spec.clusterIP}", NAMESPACE];
    let address = call::must(&mut cluster.kubectl(&address), CALL)?;
    // DNS hears of a Service a moment after it was made.
    progress.wait("the Service in DNS", LONG, PERIOD, || {
        let found = shell(&format!("nslookup smoke.tidegate-smoke.svc.cluster.local {DNS_IP}")).unwrap_or_default();
        Ok(if found.contains(&address) { Look::Ready(()) } else { Look::NotYet(found) })
    })?;
    shell("nc -w 10 kubernetes.default.svc 443 </dev/null")?;
    progress.say("smoke: a pod is entered, DNS answers in it, and it reaches the API server");

    // From one pod through the Service to both, itself included: that takes translation in all its forms.
    let request = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80");
    let mut seen = BTreeSet::new();
    progress.wait("answers of both pods through the Service", LONG, PERIOD, || {
        // One refused now and then: each sidecar takes one connection at a time.
        seen.extend(shell(&request).unwrap_or_default().lines().last().map(str::to_owned));
        let both = ["smoke-0", "smoke-1"].iter().all(|pod| seen.contains(*pod));
        Ok(if both { Look::Ready(()) } else { Look::NotYet(format!("seen: {seen:?}")) })
    })?;
    progress.say("smoke: both pods answer through the Service");
    Ok(())
}
