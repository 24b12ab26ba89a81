//! `tidegate send` to a running `tidegate dev`.

use crate::support::{Project, topic};

#[test]
fn a_file_of_events_is_sent_in_order() {
    let project = Project::new(&topic());
    let _dev = project.ready(&[]);
    let file = project.state().join("events.jsonl");
    let lines = (1..=20).map(|n| format!("{{\"specversion\":\"1.0\",\"id\":\"{n}\",\"data\":{{\"n\":{n}}}}}\n"));
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let sent = project.sent(&["--file", file.to_str().unwrap()]);
    let told: Vec<_> = sent.iter().map(|event| (event["id"].as_str().unwrap(), event["sequence"].as_u64())).collect();
    let expected: Vec<String> = (1..=20).map(|n: u64| n.to_string()).collect();
    assert_eq!(told, expected.iter().map(|id| (id.as_str(), id.parse().ok())).collect::<Vec<_>>());
    let output = project.send(&["--file", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("known already, as 1: 1\nknown already, as 2: 2\n"), "{text}");
}

#[test]
fn what_a_topic_refuses_is_told_and_the_rest_is_sent() {
    let publishers = "spec: {publishers: [{serviceAccount: {name: till}, types: [order.created]}]}";
    let project = Project::new(&topic().replace("spec: {}", publishers));
    let _dev = project.ready(&[]);
    let file = project.state().join("events.jsonl");
    let event = |id: &str, kind: &str| format!("{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"type\":\"{kind}\"}}\n");
    std::fs::write(&file, event("a", "order.deleted") + &event("b", "order.created")).unwrap();
    let output = project.send(&["--file", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.starts_with("refused: a: 403: ") && text.contains("\nstored as 1: b\n"), "{text}");
}

#[test]
fn without_a_run_it_is_said_what_to_start() {
    let project = Project::new(&topic());
    let output = project.send(&[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no tidegate dev with topic orders runs"), "{text}");
    let output = project.send(&["--data", "@/nowhere"]);
    assert_eq!(output.status.code(), Some(2));
}
