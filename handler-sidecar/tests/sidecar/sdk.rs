//! The CloudEvents SDKs for Python and JavaScript read what a handler receives, in all three modes.
//!
//! `e2e/sdk/run.sh` installs them and runs this. `TIDEGATE_SDK` is the folder of its scripts with `node_modules`
//! beside them, and `SDK_PYTHON` a Python with the packages; nothing is installed or fetched from here.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_broker_client::contract::Format;
use tidegate_cloudevents::Event;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::{HANDLER, Running, all_settled, config, free_port, store};

const ACK_WAIT: Duration = Duration::from_secs(5);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A handler in another language. Dropped, it is killed.
fn start(program: &str, script: &str, port: u16) -> Child {
    let script = PathBuf::from(std::env::var("TIDEGATE_SDK").unwrap()).join(script);
    let mut command = Command::new(program);
    command.arg(script).arg(port.to_string()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// What is odd in them must arrive as it is.
fn events() -> Vec<(Event, Value)> {
    let event = |id: &str, content_type: &str, data: &'static [u8]| {
        Event::builder(id, "/sdk/a%20b?c=d", "com.example.größe")
            .attribute("subject", "Größe \"7\" 50% 😀")
            .attribute("time", "2026-01-31T17:31:00Z")
            .attribute("partitionkey", "a.b *>")
            .attribute("datacontenttype", content_type)
            .data(data)
            .build()
            .unwrap()
    };
    vec![
        (
            event("json", "application/json", r#"{"text":"größe","number":23.5,"list":[1,null]}"#.as_bytes()),
            json!({"text": "größe", "number": 23.5, "list": [1, null]}),
        ),
        (event("text", "text/plain", "größe".as_bytes()), json!("größe")),
        (event("binary", "application/octet-stream", b"\x00\xff\x01"), json!({"base64": "AP8B"})),
    ]
}

async fn check(program: &str, script: &str, format: Format, mode: &str) {
    let (broker, port) = (TestBroker::start().await, free_port());
    let mut handler = start(program, script, port);
    let mut config = config(&broker, broker.handler(HANDLER, ACK_WAIT).await, port, ACK_WAIT);
    config.delivery.format = format;
    let sidecar = Running::ready(config).await;
    let mut expected = Vec::new();
    for (event, data) in events() {
        let sequence = store(&broker, &event, &[("traceparent", PARENT)]).await;
        expected.push((event, data, sequence));
    }
    all_settled(&broker).await;
    let mut lines = BufReader::new(handler.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    for _ in &expected {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["error"], Value::Null, "{script} {mode}");
        told.push(line);
    }
    for (event, data, sequence) in &expected {
        let got = told.iter().find(|told| told["attributes"]["id"] == event.id());
        let got = got.unwrap_or_else(|| panic!("{} is not among {told:?}", event.id()));
        assert_eq!(got["mode"], mode);
        assert_eq!(got["data"], *data, "{script} {mode} {}", event.id());
        expect_attributes(event, *sequence, &got["attributes"], &format!("{script} {mode}"));
    }
    sidecar.terminate().await;
    handler.kill().await.unwrap();
}

fn expect_attributes(event: &Event, sequence: u64, got: &Value, what: &str) {
    let added = [
        ("tidegatetopic", "orders".to_owned()),
        ("tidegateattempt", "1".to_owned()),
        ("tidegatesequence", sequence.to_string()),
        ("traceparent", PARENT.to_owned()),
    ];
    let content_type = [("datacontenttype", event.data_content_type().unwrap().to_owned())];
    let own = event.attributes().map(|(name, value)| (name, value.to_owned()));
    for (name, value) in own.chain(content_type).chain(added) {
        let got = got[name].as_str().unwrap_or_default();
        // An SDK may write a time in another way.
        let got = if name == "time" { got.replace(".000Z", "Z") } else { got.to_owned() };
        assert_eq!(got, value, "{what}: {name} of {}", event.id());
    }
}

const BATCH: Format = Format::Batch { max_events: 10, max_wait: Duration::from_millis(100) };

#[tokio::test]
#[ignore = "needs what e2e/sdk/run.sh installs"]
async fn python_reads_all_three_modes() {
    let python = std::env::var("SDK_PYTHON").unwrap();
    check(&python, "receive.py", Format::Binary, "binary").await;
    check(&python, "receive.py", Format::Structured, "structured").await;
    check(&python, "receive.py", BATCH, "batch").await;
}

#[tokio::test]
#[ignore = "needs what e2e/sdk/run.sh installs"]
async fn javascript_reads_all_three_modes() {
    check("node", "receive.mjs", Format::Binary, "binary").await;
    check("node", "receive.mjs", Format::Structured, "structured").await;
    check("node", "receive.mjs", BATCH, "batch").await;
}
