//! `tidegate dead` and `tidegate tail` as processes, to an API server of the test's that answers what a real one does not.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Handler, PROGRAM, Received, status};

/// The time by the broker's clock, which is far from this machine's.
const NOW: &str = "2030-01-01T12:00:00Z";

/// A cluster, as a kubeconfig names it.
struct Cluster {
    folder: TempDir,
    server: Handler,
}

impl Cluster {
    async fn answering(answer: impl Fn(&Received) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
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

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(line.split(' ')).env("KUBECONFIG", self.folder.path().join("config")).stdin(Stdio::null());
        command
    }

    async fn run(&self, line: &str) -> (Option<i32>, String) {
        let mut command = self.command(line);
        let Output { status, stderr, .. } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }
}

fn page(more: bool) -> Response<Full<Bytes>> {
    let event = json!({"specversion": "1.0", "id": "a", "source": "/s", "type": "t"});
    let item = json!({"sequence": 1, "time": "2026-01-01T00:00:00Z", "event": event});
    let metadata = if more { json!({"continue": "2"}) } else { json!({}) };
    Response::new(json!({"metadata": metadata, "items": vec![item; 500]}).to_string().into())
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
    assert!(code == Some(1) && told.contains("500 events are written, the others begin with --from 2"), "{told}");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 500);
    let whole = Cluster::answering(|_| page(false)).await;
    let (code, told) = whole.run(&format!("dead export billing -f {}", file.display())).await;
    assert_eq!((code, std::fs::read_to_string(&file).unwrap().lines().count()), (Some(0), 500), "{told}");
    let (code, told) = whole.run("dead export billing -f /dev/stdout").await;
    assert_eq!(code, Some(0), "{told}");
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
