//! `tidegate doctor` without a cluster. What it finds in one is tested with the operator, on an API server.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tidegate_test_broker::free_port;

use crate::support::PROGRAM;

fn run(kubeconfig: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("KUBECONFIG", kubeconfig).env("HOME", "/nowhere").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn without_a_cluster_it_is_said_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let away = folder.path().join("away");
    let content = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [{"name": "a", "user": {}}],
        "clusters": [{"name": "a", "cluster": {"server": format!("http://127.0.0.1:{}", free_port())}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    fs::write(&away, content.to_string()).unwrap();
    let away = away.to_str().unwrap();
    for (kubeconfig, arguments, code, says) in [
        ("/nowhere/at/all", &["doctor", "handler/billing"][..], 5, "set KUBECONFIG"),
        (away, &["doctor", "handler/billing"], 5, "is the cluster of the kubeconfig there?"),
        (away, &["doctor", "handler/billing", "--context", "b"], 5, "--context"),
        (away, &["doctor", "billing"], 2, "expected KIND/NAME"),
    ] {
        let output = run(kubeconfig, arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(says) && output.stdout.is_empty(), "{text}");
    }
}

#[test]
fn an_output_is_text_or_a_document() {
    for (format, is_known) in [("table", true), ("text", true), ("json", true), ("yaml", true), ("wide", false)] {
        let output = run("/nowhere/at/all", &["doctor", "handler/billing", "-o", format]);
        assert_eq!(output.status.code(), Some(if is_known { 5 } else { 2 }), "{format}");
    }
}
