//! What a Prometheus server reads of the operator: of the program itself, as the chart runs it.

use std::fs;
use std::process::Command;

use serde_json::json;
use tidegate_crds::EventHandler;
use tidegate_test_broker::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::operator::turn;
use crate::support::programs::Program;
use crate::support::{Space, eventually, server};
use crate::validation_handler::{handler, spec};

/// The operator with these exporters of metrics, and the port at which it is asked.
fn operator(space: &Space, exporters: &str) -> (Program, u16) {
    let (folder, kubeconfig) = server::for_process();
    let file = folder.join(format!("{}.kubeconfig", space.name));
    fs::write(&file, kubeconfig.to_string()).unwrap();
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-operator"));
    for (flag, value) in [
        ("--sidecar-image", "registry.test/sidecar:1"),
        ("--ingress-image", "registry.test/ingress:1"),
        ("--broker-image", "registry.test/nats-server:1"),
        ("--pod-name", "operator-0"),
        ("--pod-namespace", &*space.name),
        ("--cluster-lease-namespace", &*space.name),
        ("--admin-port", &*port.to_string()),
    ] {
        command.args([flag, value]);
    }
    command.env("KUBECONFIG", file).env("OTEL_METRICS_EXPORTER", exporters);
    (Program::run("operator", command, &folder.join(format!("{}.log", space.name))), port)
}

/// What it answers, head and body; `None`: it does not listen yet.
async fn asked(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// The value of the series of this name that has all these labels.
fn value(answer: &str, name: &str, labels: &[String]) -> Option<f64> {
    let mut lines = answer.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test]
async fn resources_are_series_of_the_operator_that_leads() {
    let space = Space::new("metrics").await;
    let _turn = turn().await;
    space.topic("orders", json!({})).await;
    let _: EventHandler = space.create(handler("billing", spec(json!({"replicas": 1})))).await;
    let (mut program, port) = operator(&space, "prometheus");
    let label = |key: &str, value: &str| format!("{key}=\"{value}\"");
    let namespace = label("k8s_namespace_name", &space.name);
    let of_topic = [label("messaging_destination_name", "orders"), label("tidegate_topic_namespace", &space.name)];
    let wanted = [
        ("tidegate_topic_ready", [of_topic.as_slice(), &[label("reason", "PodsNotReady")]].concat(), 0.0),
        ("tidegate_broker_servers", vec![namespace.clone(), label("tidegate_broker", "default")], 1.0),
        ("tidegate_broker_topics", vec![namespace.clone(), label("tidegate_broker", "default")], 1.0),
        ("tidegate_handler_ready", vec![namespace, label("messaging_consumer_group_name", "billing")], 0.0),
    ];
    for (name, labels, wanted) in wanted {
        let what = format!("{name} with {labels:?} is {wanted}");
        let seen = eventually(&what, async || {
            program.check();
            let answer = asked(port).await?;
            (value(&answer, name, &labels)? == wanted).then_some(())
        });
        seen.await;
    }
    let answer = asked(port).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for (kind, name) in [("gauge", "tidegate_topic_ready"), ("gauge", "tidegate_broker_servers")] {
        assert!(answer.contains(&format!("# TYPE {name} {kind}\n")), "{name}: {answer}");
    }
    program.kill();
}

#[tokio::test]
async fn whoever_did_not_ask_for_metrics_has_none() {
    let space = Space::new("no-metrics").await;
    let _turn = turn().await;
    let (program, port) = operator(&space, "otlp");
    let answer = eventually("it answers", async || asked(port).await.filter(|answer| !answer.is_empty())).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("OTEL_METRICS_EXPORTER"), "{answer}");
    program.kill();
}
