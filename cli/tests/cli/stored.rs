//! `tidegate dead` and `tidegate tail` as processes, to an API server of the test's that answers what a real one does not.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_test_broker::LIMIT;

use crate::support::{Handler, PROGRAM, Received, status};

/// The time by the broker's clock, which is far from this machine's.
const NOW: &str = "2030-01-01T12:00:00Z";

/// A cluster, as a kubeconfig names it.
pub struct Cluster {
    folder: TempDir,
    pub server: Handler,
}

impl Cluster {
    pub async fn answering(answer: impl Fn(&Received) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let (folder, server) = (tempfile::tempdir().unwrap(), Handler::answering(answer).await);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "own",
            "clusters": [{"name": "own", "cluster": {"server": format!("http://127.0.0.1:{}", server.port)}}],
            "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own", "namespace": "shop"}}],
            "users": [{"name": "own", "user": {}}],
        });
        std::fs::write(folder.path().join("config"), kubeconfig.to_string()).unwrap();
        Self { folder, server }
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(line.split(' ')).env("KUBECONFIG", self.folder.path().join("config")).stdin(Stdio::null());
        command
    }

    /// Its exit code, what it writes and what it says. One that does not end is ended, and has no code.
    pub async fn output(&self, line: &str) -> (Option<i32>, String, String) {
        let child = self.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let killed = async {
            tokio::time::sleep(LIMIT).await;
            let _ = kill(pid, Signal::SIGKILL);
            std::future::pending().await
        };
        let output = tokio::select! {
            ended = ended => ended.unwrap(),
            output = killed => output,
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    pub async fn run(&self, line: &str) -> (Option<i32>, String) {
        let (code, _, told) = self.output(line).await;
        (code, told)
    }
}

/// A page of items of a stream whose last sequence is this, from one on.
pub fn page_from(first: u64, last: u64) -> Response<Full<Bytes>> {
    let end = last.min(first + 499);
    let mut metadata = json!({"lastSequence": last, "time": NOW});
    if end < last {
        metadata["continue"] = (end + 1).to_string().into();
    }
    Response::new(
        json!({"metadata": metadata, "items": (first..=end).map(item).collect::<Vec<_>>()}).to_string().into(),
    )
}

fn item(sequence: u64) -> Value {
    let event = json!({"specversion": "1.0", "id": sequence.to_string(), "source": "/s", "type": "t"});
    json!({"sequence": sequence, "time": "2026-01-01T00:00:00Z", "event": event})
}

fn page(more: bool) -> Response<Full<Bytes>> {
    page_from(1, if more { 1_000_000_000 } else { 500 })
}

pub fn refusal(code: u16, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"kind": "Status", "code": code, "message": message}).to_string();
    Response::builder().status(code).body(body.into()).unwrap()
}

fn parameter(asked: &Received, name: &str) -> Option<String> {
    let mut pairs = asked.query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.replace("%3A", ":").replace("%2D", "-"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_wrongly_ends_with_2_and_what_is_away_with_1() {
    let cluster = Cluster::answering(|_| status(503)).await;
    let written = cluster.folder.path().join("letters");
    std::fs::write(&written, "of yesterday").unwrap();
    for line in [
        "dead list Billing",
        "dead show ../x 1",
        "dead drop billing",
        "dead drop billing 1 --all",
        "dead list billing --since yesterday",
        "dead show billing x",
        "tail pod/orders",
        "tail broker/default",
        "dead list topic/orders",
        "dead redrive billing",
        "dead drop billing 1",
        "tail orders --last 1 --since 1h",
        "dead export billing -f /nowhere/at/all",
    ] {
        let (code, told) = cluster.run(line).await;
        assert_eq!(code, Some(2), "{line}: {told}");
    }
    assert_eq!(cluster.server.received().len(), 0);
    for line in ["dead list billing", "dead show billing 1", "tail orders", "tail orders -f"] {
        let (code, told) = cluster.run(line).await;
        assert!(code == Some(1) && told.contains("no operator answers"), "{line}: {code:?} {told}");
    }
    assert_eq!(cluster.server.received().len(), 4, "each asks once");
    let (code, told) = cluster.run(&format!("dead export billing -f {}", written.display())).await;
    assert_eq!((code, std::fs::read_to_string(&written).unwrap().as_str()), (Some(1), "of yesterday"), "{told}");

    let (code, told) = cluster.run("dead list billing --context other").await;
    assert!(code == Some(1) && told.contains("set KUBECONFIG, or correct --context"), "{told}");
    let gone = Cluster::answering(|_| Response::new("no JSON".into())).await;
    let (code, told) = gone.run("dead list billing -n other").await;
    assert!(code == Some(1) && told.contains("operator's version"), "{told}");
    assert!(gone.server.received()[0].path.contains("/namespaces/other/"));
    let config = gone.folder.path().join("config");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace("127.0.0.1:", "127.0.0.1:1/")).unwrap();
    let (code, told) = gone.run("tail orders").await;
    assert!(code == Some(1) && told.contains("is the cluster of the kubeconfig there?"), "{told}");
}

/// There are letters without an end: all of them would never be in memory, nor be waited for.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_written_as_they_come_and_a_closed_pipe_ends_it_quietly() {
    let cluster = Cluster::answering(|_| page(true)).await;
    for line in ["dead list billing", "dead export billing", "tail orders --last 1000000"] {
        let mut command = cluster.command(line);
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let read = BufReader::new(child.stdout.take().unwrap()).lines().take(2000).count();
            assert_eq!(read, 2000);
            child.wait_with_output().unwrap()
        });
        let Output { status, stderr, .. } = ended.await.unwrap();
        assert_eq!((status.code(), String::from_utf8(stderr).unwrap()), (Some(141), String::new()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_breaks_off_says_where_to_continue() {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let cluster = Cluster::answering(move |_| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => page(true),
        _ => status(503),
    })
    .await;
    let file = cluster.folder.path().join("letters");
    let (code, told) = cluster.run(&format!("dead export billing -f {}", file.display())).await;
    assert!(code == Some(1) && told.contains("500 events are written, the others begin with --from 501"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 500);
    let whole = Cluster::answering(|_| page(false)).await;
    let (code, told) = whole.run(&format!("dead export billing -f {}", file.display())).await;
    assert_eq!((code, std::fs::read_to_string(&file).unwrap().lines().count()), (Some(0), 500), "{told}");
    let (code, told) = whole.run("dead export billing -f /dev/stdout").await;
    assert_eq!(code, Some(0), "{told}");
}

/// Events come faster than they are shown: those that there were at the beginning are shown, and it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_ends_where_the_stream_ended_when_it_began() {
    let cluster = Cluster::answering(|asked| {
        let first = parameter(asked, "continue").map_or(1, |next| next.parse().unwrap());
        if first > 100_000 { refusal(400, "it goes on for ever") } else { page_from(first, first + 1199) }
    })
    .await;
    for line in
        ["tail orders -o json", "tail orders --since 2h -o json", "dead list eh/billing -o json", "dead export billing"]
    {
        let (code, lines, told) = cluster.output(line).await;
        assert_eq!((code, lines.lines().count()), (Some(0), 1200), "{line}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_ago_something_was_is_measured_by_the_brokers_clock() {
    let cluster = Cluster::answering(|_| page(false)).await;
    for (line, name) in [
        ("tail orders --since 2h", "since"),
        ("dead list billing --until 2h", "until"),
        ("dead export billing --since 2h", "since"),
    ] {
        let (code, told) = cluster.run(line).await;
        assert_eq!(code, Some(0), "{line}: {told}");
        let asked = cluster.server.received();
        assert_eq!(
            parameter(asked.last().unwrap(), name).as_deref(),
            Some("2030-01-01T10:00:00Z"),
            "{line}: {asked:?}"
        );
    }
    let asked = cluster.server.received().len();
    cluster.run("tail orders --since 2026-01-01T00:00:00Z").await;
    assert_eq!(cluster.server.received().len(), asked + 1, "a time needs no clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_ends_what_follows_it() {
    let cluster = Cluster::answering(|asked| match parameter(asked, "fromSequence").as_deref() {
        None => {
            let lines =
                [json!({"type": "BOOKMARK", "object": {"sequence": 12}}), json!({"type": "ADDED", "object": item(13)})];
            Response::new(lines.map(|line| line.to_string() + "\n").concat().into())
        }
        Some("14") => refusal(410, "sequence 14 is beyond the end of EventTopic orders, whose last one is 3"),
        Some(other) => refusal(400, other),
    })
    .await;
    let (code, told) = cluster.run("tail orders -f").await;
    assert_eq!(
        (code, told.as_str()),
        (Some(1), "tidegate: sequence 14 is beyond the end of EventTopic orders, whose last one is 3\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_topic_waits_for_its_turn() {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let cluster = Cluster::answering(move |_| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => refusal(429, "too many calls are under way"),
        1 => Response::new((json!({"type": "BOOKMARK", "object": {"sequence": 12}}).to_string() + "\n").into()),
        _ => refusal(410, "begin again"),
    })
    .await;
    assert_eq!(cluster.run("tail orders -f").await, (Some(1), "tidegate: begin again\n".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_suggested_is_for_the_same_cluster_and_namespace() {
    let cluster = Cluster::answering(|_| {
        let item = json!({"sequence": 7, "time": "", "problem": "no event", "dataBase64": ""});
        Response::new(json!({"metadata": {"lastSequence": 7, "time": NOW}, "items": [item]}).to_string().into())
    })
    .await;
    let (code, told) = cluster.run("dead export billing --context own -n till").await;
    let show = "tidegate dead show billing 7 -o json --context own --namespace till";
    assert!(code == Some(4) && told.contains(show), "{code:?} {told}");
    let away = Cluster::answering(|_| status(503)).await;
    let (_, told) = away.run("tail orders --context own").await;
    assert!(told.contains("kubectl describe apiservice v1alpha1.subresources.tidegate.io --context own"), "{told}");
}

/// Whoever reads what goes wrong may have gone, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_standard_error_changes_no_exit_code() {
    let cluster = Cluster::answering(|asked| match asked.path.ends_with("/deadletters") {
        true => Response::new(json!({"metadata": {"lastSequence": 0, "time": NOW}, "items": []}).to_string().into()),
        false => status(503),
    })
    .await;
    for (line, expected) in
        [("tail orders", 1), ("dead list billing", 0), ("dead show ../x 1", 2), ("doctor topic/orders", 5)]
    {
        let mut command = cluster.command(line);
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            drop(child.stderr.take());
            child.wait().unwrap()
        });
        assert_eq!(ended.await.unwrap().code(), Some(expected), "{line}");
    }
}
