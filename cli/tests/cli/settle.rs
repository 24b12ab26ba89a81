//! `tidegate dead redrive` and `tidegate dead drop` as processes.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::stored::{Cluster, page_from, refusal};
use crate::support::{Received, until};

fn answer(body: &Value) -> Response<Full<Bytes>> {
    Response::new(body.to_string().into())
}

/// What a redrive or a drop asks for.
fn asked_for(asked: &Received) -> Vec<u64> {
    if asked.path.ends_with("/redrive") {
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        return serde_json::from_value(body["sequences"].clone()).unwrap();
    }
    let named = asked.query.split('&').filter_map(|pair| pair.strip_prefix("sequence="));
    named.map(|sequence| sequence.parse().unwrap()).collect()
}

/// Settles all, but letter 3, which stays or is not there, and letter 4, which is not there.
fn settles(asked: &Received) -> Response<Full<Bytes>> {
    let letters = asked_for(asked);
    if letters.is_empty() {
        return page_from(1, 250);
    }
    let outcome = |sequence: &u64| match sequence {
        3 => json!({"sequence": 3, "outcome": "stays", "message": "no \u{1b}[2Jconsumer"}),
        4 => json!({"sequence": 4, "outcome": "gone"}),
        other => json!({"sequence": other, "outcome": "redriven"}),
    };
    let bad = letters.iter().filter(|sequence| matches!(sequence, 3 | 4)).collect::<Vec<_>>();
    let done = letters.len() - bad.len();
    match asked.path.ends_with("/redrive") {
        true => {
            answer(&json!({"redriven": done, "items": letters.iter().map(outcome).collect::<Vec<_>>(), "left": []}))
        }
        false => answer(&json!({"details": {"dropped": done, "gone": bad}})),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_and_what_is_not_there_is_said_and_ends_with_4() {
    let cluster = Cluster::answering(settles).await;
    let not_there = "is not there: it was redriven or dropped already, or is no dead letter of the handler";
    let (code, out, told) = cluster.output("dead redrive billing 4 2 3 2 5").await;
    assert_eq!(out, format!("3 stays a dead letter: no  [2Jconsumer\n4 {not_there}\n2 dead letters were redriven\n"));
    assert_eq!(
        (code, told.as_str()),
        (Some(4), "tidegate: 1 dead letters stay, for the reasons above, and 1 were not there\n")
    );
    let (code, out, told) = cluster.output("dead drop billing 4 5 --yes").await;
    assert_eq!(out, format!("4 {not_there}\n1 dead letters were dropped\n"));
    assert_eq!((code, told.as_str()), (Some(4), "tidegate: 1 dead letters were not there\n"));
    let (code, out, told) = cluster.output("dead drop handler/billing --from 1 --yes").await;
    assert_eq!((code, out.lines().last(), told.lines().count()), (Some(4), Some("248 dead letters were dropped"), 1));
    assert_eq!(
        cluster.output("dead redrive billing 1 2").await,
        (Some(0), "2 dead letters were redriven\n".into(), String::new())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_before_a_failure_is_counted() {
    for line in ["dead redrive billing --all", "dead drop billing --all --yes"] {
        let cluster = Cluster::answering(|asked| match asked_for(asked).first() {
            Some(first) if *first > 200 => refusal(503, "the broker is away"),
            _ => settles(asked),
        })
        .await;
        let (code, out, told) = cluster.output(line).await;
        let done =
            if line.contains("drop") { "198 dead letters were dropped" } else { "198 dead letters were redriven" };
        assert_eq!((code, out.lines().last()), (Some(1), Some(done)), "{line}: {told}");
        assert!(told.contains("the broker is away; up to 50 more may have been"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_repeated_at_once_only_where_there_was_no_time() {
    for (reason, code, calls, says) in [
        ("OutOfTime", 0, 3, ""),
        ("HandlerChanged", 1, 1, "the handler was changed: this call left 2, and what"),
        ("HandlerChanged", 1, 1, "kubectl wait eventhandler billing --for=condition=Subscribed --namespace shop"),
        ("Unavailable", 1, 1, "the broker is away: this call left 2, and what comes after them was not tried\n"),
    ] {
        let cluster = Cluster::answering(move |asked| {
            let letters = asked_for(asked);
            let items = [json!({"sequence": letters[0], "outcome": "redriven"})];
            answer(&json!({
                "redriven": 1, "items": items, "left": letters[1..], "reason": reason, "message": "the broker is away",
            }))
        })
        .await;
        let (ended, out, told) = cluster.output("dead redrive billing 1 2 3").await;
        assert_eq!((ended, cluster.server.received().len()), (Some(code), calls), "{reason}: {told}");
        assert!(told.contains(says) && out == format!("{calls} dead letters were redriven\n"), "{reason}: {out}{told}");
    }
}

/// A cluster that takes a second for each call that settles letters.
async fn slow() -> Cluster {
    Cluster::answering(|asked| {
        if !asked_for(asked).is_empty() {
            std::thread::sleep(Duration::from_secs(1));
        }
        settles(asked)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_after_the_call_that_is_under_way_and_says_what_was_done() {
    let cluster = slow().await;
    let mut command = cluster.command("dead redrive billing --all");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let server = Arc::new(cluster);
    let calls = Arc::clone(&server);
    let ended = tokio::task::spawn_blocking(move || {
        until("a call was answered", || calls.server.received().iter().any(|asked| !asked_for(asked).is_empty()));
        std::thread::sleep(Duration::from_millis(200));
        kill(pid, Signal::SIGINT).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = ended.await.unwrap();
    let (out, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(
        (output.status.code(), out.lines().last()),
        (Some(130), Some("198 dead letters were redriven")),
        "{told}"
    );
    assert!(
        told.contains("ends after the call that is under way") && told.contains("the others are as they were"),
        "{told}"
    );
    assert_eq!(server.server.received().iter().filter(|asked| asked.path.ends_with("/redrive")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_finds_nothing_is_said() {
    let empty = json!({"metadata": {"lastSequence": 9, "time": "2030-01-01T12:00:00Z"}, "items": []});
    let cluster = Cluster::answering(move |_| answer(&empty)).await;
    for (line, says) in [
        ("dead redrive billing --type order.*", "no dead letter matches the filter\n"),
        ("dead drop billing --reason none --yes", "no dead letter matches the filter\n"),
        ("dead redrive billing --all", "0 dead letters were redriven\n"),
    ] {
        assert_eq!(cluster.output(line).await, (Some(0), says.into(), String::new()), "{line}");
    }
    for (line, says) in [
        ("dead list billing --type order.*", "no dead letter matches the filter\n"),
        ("dead list billing", "no dead letters\n"),
    ] {
        assert_eq!(cluster.run(line).await, (Some(0), says.into()), "{line}");
    }
}

/// What a search sees that finds nothing: page after page of it, each after a while.
fn finds_nothing(asked: &Received) -> Response<Full<Bytes>> {
    std::thread::sleep(Duration::from_millis(500));
    let next = asked.query.split('&').find_map(|pair| pair.strip_prefix("continue="));
    let next = next.map_or(1, |next| next.parse::<u64>().unwrap()) + 2000;
    answer(&json!({
        "metadata": {"lastSequence": 20_000, "time": "2030-01-01T12:00:00Z", "continue": next.to_string()}, "items": [],
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_search_that_finds_nothing() {
    for signals in [1, 2] {
        let server = Arc::new(Cluster::answering(finds_nothing).await);
        let mut command = server.command("dead redrive billing --reason none");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let calls = Arc::clone(&server);
        let ended = tokio::task::spawn_blocking(move || {
            until("a page was answered", || !calls.server.received().is_empty());
            for _ in 0..signals {
                std::thread::sleep(Duration::from_millis(100));
                kill(pid, Signal::SIGINT).unwrap();
            }
            child.wait_with_output().unwrap()
        });
        let output = ended.await.unwrap();
        let (out, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(130), "{told}");
        assert!(server.server.received().len() < 5, "it reads on: {:?}", server.server.received());
        assert_eq!(out, "0 dead letters were redriven\n");
        assert!(told.contains("the others are as they were") && !told.contains("may have been"), "{told}");
    }
}

/// A process at a terminal: what the terminal shows, and where to type.
struct Terminal {
    child: Child,
    typed: std::fs::File,
    shown: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl Terminal {
    fn start(cluster: &Cluster, line: &str) -> Self {
        let pty = openpty(None, None).unwrap();
        let (input, errors): (OwnedFd, OwnedFd) = (pty.slave.try_clone().unwrap(), pty.slave);
        let mut command = cluster.command(line);
        command.env("TERM", "xterm").stdin(input).stdout(Stdio::piped()).stderr(errors);
        let child = command.spawn().unwrap();
        drop(command);
        let (typed, shown) = (std::fs::File::from(pty.master), Arc::new(Mutex::new(Vec::new())));
        let (mut read, kept) = (typed.try_clone().unwrap(), Arc::clone(&shown));
        let reading = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal that nobody has open any more is an error.
            while let Ok(length @ 1..) = read.read(&mut bytes) {
                kept.lock().unwrap().extend_from_slice(&bytes[..length]);
            }
        });
        Self { child, typed, shown, reading }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn end(self) -> (Option<i32>, String, String) {
        let output = self.child.wait_with_output().unwrap();
        self.reading.join().unwrap();
        let shown = String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), shown)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_asks_at_a_terminal_and_needs_a_yes_elsewhere() {
    let cluster = Arc::new(Cluster::answering(settles).await);
    let (code, told) = cluster.run("dead drop billing --all").await;
    assert!(code == Some(2) && told.contains("say --yes"), "{told}");
    assert_eq!(cluster.server.received().len(), 0);
    for (reply, code, calls) in [("\n", 1, 0), ("no\n", 1, 0), ("y\n", 0, 1)] {
        let asked = Arc::clone(&cluster);
        let ended = tokio::task::spawn_blocking(move || {
            let mut terminal = Terminal::start(&asked, "dead drop billing 1 2");
            until("the question", || terminal.shown().contains("[y/N]"));
            terminal.typed.write_all(reply.as_bytes()).unwrap();
            terminal.end()
        });
        let (ended, out, shown) = ended.await.unwrap();
        assert!(shown.contains("Remove dead letter 1, 2 of EventHandler shop/billing for good? [y/N]"), "{shown}");
        assert_eq!((ended, cluster.server.received().len()), (Some(code), calls), "{reply:?}: {out}{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_it_is_is_shown_at_a_terminal_alone() {
    let cluster = Arc::new(slow().await);
    let at_terminal = Arc::clone(&cluster);
    let ended = tokio::task::spawn_blocking(move || Terminal::start(&at_terminal, "dead redrive billing --all").end());
    let (code, out, shown) = ended.await.unwrap();
    assert!(shown.contains("%") && shown.contains("198 redriven, 2 not"), "{shown:?}");
    assert!(code == Some(4) && !out.contains('\u{1b}'), "{out:?}");
    let (code, out, told) = cluster.output("dead redrive billing --all").await;
    assert_eq!((code, told.lines().count()), (Some(4), 1), "{told}");
    assert!(!out.contains('\u{1b}') && !told.contains('\u{1b}'), "{out:?} {told:?}");
}
