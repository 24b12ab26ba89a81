//! `tidegate tail` and `tidegate dead`, run against the aggregated API through a real API server.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tidegate_broker_client::layout;
use tidegate_cli::args::{Arguments, Command};
use tidegate_cli::failure::Failure;
use tidegate_cli::{dead, stored, tail};
use tidegate_cloudevents::Event;
use tidegate_operator::subresources::API_SERVICE;

use crate::subresources::{ANN, BOB, Data, event};
use crate::support::{eventually, server_config};

/// What a command wrote so far.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Runs a command line with a user's rights.
async fn run(data: &Data, user: &str, line: &str, mut out: Output) -> Result<(), Failure> {
    let mut config = server_config();
    config.default_retry = false;
    config.auth_info.impersonate = (user != "admin").then(|| user.to_owned());
    let api = stored::Api::new(
        Client::try_from(config).unwrap(),
        stored::Location { namespace: data.space.name.clone(), context: None },
    );
    match Arguments::parse_from([&["tidegate"], &*line.split(' ').collect::<Vec<_>>()].concat()).command {
        Command::Dead(arguments) => dead::run_with(&api, &arguments.command, &mut out, true).await,
        Command::Tail(arguments) => tail::run_with(&api, &arguments, &mut out).await,
        other => panic!("{other:?}"),
    }
}

/// What ann is shown.
pub async fn shown(data: &Data, line: &str) -> String {
    let out = Output::default();
    let ran = run(data, ANN, line, out.clone()).await;
    assert!(ran.is_ok(), "{line}: {ran:?}\n{}", out.text());
    let text = out.text();
    assert!(text.lines().all(|line| line.chars().all(|c| !c.is_control())), "{text:?}");
    text
}

/// What somebody is told.
pub async fn told(data: &Data, user: &str, line: &str) -> String {
    run(data, user, line, Output::default()).await.unwrap_err().to_string()
}

fn documents(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn numbers(text: &str) -> Vec<u64> {
    text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_shown_exported_and_dropped_by_the_command_line() {
    let data = Data::start("cli-letters").await;
    let history = r#"[{"time":"2026-01-01T00:00:00Z","status":503,"error":"busy \u001b[2J"}]"#;
    let why = [
        ("Tidegate-Reason", "attempts-used-up"),
        ("Tidegate-Last-Status", "503"),
        ("Tidegate-Attempt-History", history),
    ];
    let text = Event::builder("a", "/shop", "order.new").attribute("datacontenttype", "text/plain");
    data.dead_letter(&text.data("apples \u{202e}".to_owned() + &"x".repeat(600_000)).build().unwrap(), &why).await;
    data.dead_letter(&event("b", b"\xff\x1b[2J"), &[("Tidegate-Reason", "too-old")]).await;
    // More than a page has of them.
    for number in 3..=510 {
        data.dead_letter(&event(&number.to_string(), b"x"), &[("Tidegate-Reason", "too-old")]).await;
    }

    let all = shown(&data, "dead list billing").await;
    assert!(all.starts_with("SEQUENCE  TIME ") && all.lines().nth(1).unwrap().contains("attempts-used-up"), "{all}");
    assert_eq!(numbers(&all), (1..=510).collect::<Vec<u64>>());
    assert_eq!(numbers(&shown(&data, "dead list billing --limit 501 --from 3").await), (3..=503).collect::<Vec<u64>>());
    assert_eq!(numbers(&shown(&data, "dead list billing --text apples --type order.new --since 1h").await), [1]);
    assert!(shown(&data, "dead list billing --until 1h").await.is_empty());
    let json = documents(&shown(&data, "dead list billing --reason attempts-used-up -o json").await);
    assert_eq!((json.len(), &json[0]["lastStatus"]), (1, &json!(503)));
    let yaml = shown(&data, "dead list billing --limit 1 -o yaml").await;
    assert!(yaml.starts_with("---\n") && yaml.contains("reason: attempts-used-up"), "{yaml}");

    let one = shown(&data, "dead show billing 1").await;
    for part in [
        "Reason:                  attempts-used-up",
        "2026-01-01T00:00:00Z",
        "503",
        "busy  [2J",
        "more bytes: tidegate dead show billing 1",
    ] {
        assert!(one.contains(part), "{part}: {one}");
    }
    assert!(one.len() < 20_000, "{}", one.len());
    assert_eq!(
        documents(&shown(&data, "dead show billing 1 -o json").await)[0]["event"]["data"].as_str().unwrap().len(),
        600_010
    );
    assert!(shown(&data, "dead show billing 2").await.contains("ff 1b 5b 32 4a"));

    let exported = documents(&shown(&data, "dead export billing").await);
    assert_eq!((exported.len(), &exported[0]["specversion"]), (510, &json!("1.0")));
    assert_eq!(exported[0]["data"].as_str().unwrap().len(), 600_010);
    assert_eq!(exported[1]["data_base64"], STANDARD.encode(b"\xff\x1b[2J"));
    data.publish(layout::dead_letter_subject("billing"), HeaderMap::new(), "no event".into()).await;
    let folder = std::env::temp_dir().join(format!("export-{}", std::process::id()));
    let line = format!("dead export billing --from 509 -f {}", folder.display());
    let incomplete = told(&data, ANN, &line).await;
    assert!(
        incomplete.contains("1 dead letters are no CloudEvents") && incomplete.contains("show billing 511"),
        "{incomplete}"
    );
    assert_eq!(documents(&std::fs::read_to_string(&folder).unwrap()).len(), 2);
    std::fs::remove_file(&folder).unwrap();

    let out = Output::default();
    let gone = run(&data, ANN, "dead drop billing 1 2 999", out.clone()).await.unwrap_err();
    assert_eq!((gone.code(), gone.to_string().as_str()), (4, "1 dead letters were not there"));
    assert!(
        out.text().starts_with("999 is not there") && out.text().ends_with("\n2 dead letters were dropped\n"),
        "{}",
        out.text()
    );
    assert_eq!(shown(&data, "dead drop billing --type order.new --from 500").await, "11 dead letters were dropped\n");
    assert_eq!(numbers(&shown(&data, "dead list billing").await).len(), 498);
    assert_eq!(shown(&data, "dead drop billing --all").await, "498 dead letters were dropped\n");
}

#[tokio::test]
async fn a_topic_is_followed_from_its_latest_events_on() {
    let data = Data::start("cli-tail").await;
    for number in 1..=12 {
        data.store(&event(&number.to_string(), format!("\u{1b}[2J{number}").as_bytes())).await;
    }
    data.store(&Event::builder("13", "/shop", "bill.new").build().unwrap()).await;
    assert_eq!(numbers(&shown(&data, "tail orders").await), (4..=13).collect::<Vec<u64>>());
    assert_eq!(numbers(&shown(&data, "tail topic/orders --last 2 --type order.*").await), [12]);
    assert_eq!(numbers(&shown(&data, "tail orders --since 1h").await).len(), 13);
    assert_eq!(documents(&shown(&data, "tail orders --last 1 -o json").await)[0]["event"]["id"], "13");
    for target in ["eventtopic/orders", "et/orders", "handler/billing", "eventhandler.tidegate.io/billing"] {
        let out = Output::default();
        // Ann may read events, and no handlers.
        run(&data, "admin", &format!("tail {target} --last 1"), out.clone()).await.unwrap();
        assert_eq!(numbers(&out.text()), [13], "{target}");
    }
    assert!(told(&data, ANN, "tail eh/billing").await.contains("ask for the right to get it, or name its topic"));

    let out = Output::default();
    let follows = run(&data, ANN, "tail orders --last 1 -f -o json", out.clone());
    let ids = || documents(&out.text()).iter().map(|item| item["event"]["id"].clone()).collect::<Vec<_>>();
    let steps = async {
        eventually("the latest event", async || (ids() == ["13"]).then_some(())).await;
        data.store(&event("14", b"1")).await;
        eventually("what comes", async || (ids() == ["13", "14"]).then_some(())).await;
    };
    tokio::select! {
        ended = follows => panic!("{ended:?}"),
        () = steps => {}
    }
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_do() {
    let mut data = Data::start("cli-missing").await;
    data.store(&event("1", b"1")).await;
    for line in ["tail orders", "tail orders -f", "dead list billing", "dead export billing"] {
        let told = told(&data, BOB, line).await;
        assert!(told.contains("ClusterRole tidegate-data-reader"), "{line}: {told}");
    }
    let dropped = told(&data, BOB, "dead drop billing 1").await;
    assert!(dropped.contains("ClusterRole tidegate-data-editor"), "{dropped}");
    let other = told(&data, ANN, "tail other").await;
    assert!(other.contains("no EventTopic other"), "{other}");
    let other = told(&data, ANN, "dead show billing 9").await;
    assert!(other.contains("no such stored event"), "{other}");

    // A watch that has begun outlives a broker's absence: it is waited for.
    let out = Output::default();
    let follows = run(&data, ANN, "tail orders -f", out.clone());
    assert!(tokio::time::timeout(Duration::from_secs(3), follows).await.is_err());
    assert_eq!(numbers(&out.text()), [1]);
    data.broker.stop();
    let away = told(&data, ANN, "tail orders").await;
    assert!(away.contains("the events are kept"), "{away}");

    data.end_operator().await;
    let away = eventually("the API server does not reach an operator", async || {
        let told = told(&data, ANN, "dead list billing").await;
        told.contains("no operator answers").then_some(told)
    })
    .await;
    assert!(away.contains("kubectl describe apiservice"), "{away}");
    let services: Api<APIService> = Api::all(data.space.client.clone());
    services.delete(API_SERVICE, &DeleteParams::default()).await.unwrap();
    for user in [ANN, BOB] {
        eventually("the API is not there", async || {
            told(&data, user, "dead list billing").await.contains("api.enabled: true").then_some(())
        })
        .await;
    }
}
