//! What to show when a cluster does not come up.

use std::fs;

use crate::call;
use crate::inside::Cluster;
use crate::process::Process;

/// Without a dead program to blame: where a start usually gets stuck.
const SUSPECTS: [&str; 5] = ["keeper", "node", "kube-apiserver", "containerd", "kubelet"];

/// Prints which programs ended and the end of their logs, then what the API server says of pods and events, if it answers.
pub fn print(cluster: &Cluster<'_>) {
    let state = cluster.state;
    eprintln!("\n--- diagnosis of cluster {} (all logs: {})", state.name, state.text("log"));
    let deaths = state.deaths();
    for death in &deaths {
        eprintln!("{} ended: {}", death.program, death.how);
    }
    let blamed: Vec<&str> = deaths.iter().map(|death| death.program.as_str()).collect();
    let (logs, lines) = if blamed.is_empty() { (SUSPECTS.to_vec(), 8) } else { (blamed, 25) };
    for program in logs {
        let text = fs::read_to_string(state.log(program)).unwrap_or_default();
        if !text.is_empty() {
            eprintln!("--- the end of {program}'s log:\n{}", call::tail(&text, lines));
        }
    }
    // Without its keeper, whoever answers at its port is not this cluster.
    if Process::recorded(&state.keeper()).is_some() {
        ask(cluster);
    }
}

fn ask(cluster: &Cluster<'_>) {
    let questions: [&[&str]; 3] = [
        &["get", "nodes", "--output=wide"],
        &["get", "pods", "--all-namespaces", "--output=wide"],
        &["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
    ];
    for question in questions {
        match cluster.ask(question) {
            Ok(Ok(answer)) => eprintln!("--- kubectl {}\n{}", question.join(" "), call::tail(&answer, 25)),
            Ok(Err(reason)) => return eprintln!("--- the API server does not answer: {reason}"),
            Err(error) => return eprintln!("--- kubectl: {error:#}"),
        }
    }
}
