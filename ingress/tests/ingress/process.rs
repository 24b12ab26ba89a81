//! The program itself: how it starts, what it needs, how it ends.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use mqtt_protocol_core::mqtt::packet::v5_0;
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract;
use tidegate_publisher_auth::issuer::Issuer;
use tidegate_test_broker::{LIMIT, TestBroker, eventually, free_port, topic, topic_id};
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;

use crate::device::Device;
use crate::publishers::{account, now, write};
use crate::support::{Running, admin_status, config, exchange};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-ingress"));
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends the program with its test.
struct Started(Option<Child>);

impl Started {
    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Waits for the end.
    async fn output(mut self) -> Output {
        eventually("it ends", async || self.0.as_mut().unwrap().try_wait().unwrap().is_some()).await;
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn it_is_small_when_idle_and_ends_in_order_at_sigterm() {
    let broker = TestBroker::start().await;
    let (https_port, admin_port) = (free_port(), free_port());
    let config = contract::Ingress { https_port, admin_port, mqtt_port: free_port(), ..config(&broker) };
    let json = serde_json::to_string(&config).unwrap();
    let started = Started(Some(program().env(contract::VARIABLE, json).spawn().unwrap()));
    let is_ready = async || admin_status(admin_port, "/readyz").await == Some(http::StatusCode::OK);
    eventually("it is ready", is_ready).await;
    let resident = resident(started.id());
    assert!(resident < 12 * 1024, "{resident} KiB resident when idle");

    Command::new("kill").arg(started.id().to_string()).status().unwrap();
    let output = started.output().await;
    let log = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("draining: no longer ready"), "{log}");
    assert!(log.contains("\"drained\""), "{log}");
}

#[tokio::test]
async fn metrics_are_scraped_from_the_port_of_the_probes() {
    let broker = TestBroker::start().await;
    let (https_port, admin_port) = (free_port(), free_port());
    let config = contract::Ingress { https_port, admin_port, mqtt_port: free_port(), ..config(&broker) };
    let json = serde_json::to_string(&config).unwrap();
    let mut program = program();
    program.env(contract::VARIABLE, json).env("OTEL_METRICS_EXPORTER", "prometheus");
    let started = Started(Some(program.spawn().unwrap()));
    eventually("it is ready", async || admin_status(admin_port, "/readyz").await == Some(StatusCode::OK)).await;
    let stream = TcpStream::connect(("127.0.0.1", admin_port)).await.unwrap();
    let request = Request::get("/metrics").header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    let answer = exchange(stream, request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("target_info{") && text.contains(r#"service_name="tidegate-ingress""#), "{text}");
    let resident = resident(started.id());
    assert!(resident < 12 * 1024, "{resident} KiB resident when idle");
}

/// A publisher that is known and may publish nothing was written down as one that had proved nothing, and whoever
/// cancelled an event was not.
#[tokio::test]
async fn its_audit_says_who_was_refused_and_who_cancelled() {
    let delaying = Later { max_bytes: 1 << 20, max_delay: Some(Duration::from_secs(3600)), has_schedules: false };
    let broker = TestBroker::start_with(Topic { later: Some(delaying), ..topic() }).await;
    let (https_port, admin_port, mqtt_port) = (free_port(), free_port(), free_port());
    let config = contract::Ingress { https_port, admin_port, mqtt_port, ..config(&broker) };
    let issuer = Issuer::new("https://cluster", "key-1", "ES256");
    write(&broker, Some(issuer.trust()), &[account("web", Some("checkout"))]);
    let token = |name: &str| issuer.token("web", name, &contract::audience(&topic_id()), now());
    let json = serde_json::to_string(&config).unwrap();
    let started = Started(Some(program().env(contract::VARIABLE, json).spawn().unwrap()));
    let is_ready = async || admin_status(admin_port, "/readyz").await == Some(StatusCode::OK);
    eventually("it is ready", is_ready).await;
    let ingress = Running::elsewhere(&config);

    let connect = v5_0::Connect::builder().user_name("ignored").unwrap().password(token("rogue").into_bytes()).unwrap();
    let stream = ingress.connect_to(mqtt_port, b"mqtt").await;
    let (_, connack) = Device::greet_v5(stream, connect.build().unwrap()).await;
    assert_eq!(connack.reason_code() as u8, 0x87);
    let authorization = format!("Bearer {}", token("checkout"));
    let at = (time::OffsetDateTime::now_utc() + Duration::from_secs(1800)).format(&Rfc3339).unwrap();
    let event = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    let headers = [&event[..], &[("authorization", &authorization), ("tidegate-deliver-at", &at)]].concat();
    let stored = ingress.post(&headers, "").await;
    assert_eq!(stored.status, StatusCode::ACCEPTED, "{stored:?}");
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let cancel = Request::delete(stored.headers["location"].to_str().unwrap()).header("host", "localhost");
        let cancel = cancel.header("authorization", &authorization).body(Full::default()).unwrap();
        statuses.push(ingress.send(cancel).await.status);
    }
    assert_eq!(statuses, [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND]);

    Command::new("kill").arg(started.id().to_string()).status().unwrap();
    let log = String::from_utf8(started.output().await.stdout).unwrap();
    let line = |of: &str| log.lines().find(|line| line.contains("publisher audit") && line.contains(of)).unwrap_or("");
    assert!(line("web:rogue").contains("not-allowed=1"), "{log}");
    let checkout = line("web:checkout");
    assert!(checkout.contains("\"published\":1,\"cancelled\":1,\"refused\":1"), "{log}");
    assert!(line("(unauthenticated)").is_empty(), "{log}");
}

#[tokio::test]
async fn it_says_what_is_wrong_with_its_configuration() {
    for (value, reason) in [(None, "is not set"), (Some("{}"), "missing field")] {
        let mut program = program();
        if let Some(value) = value {
            program.env(contract::VARIABLE, value);
        }
        let output = Started(Some(program.spawn().unwrap())).output().await;
        let log = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success());
        assert!(log.contains("TIDEGATE_CONFIG") && log.contains(reason), "{log}");
    }
}

/// As the pod of a new broker starts: the init container, then the server and the ingress beside it.
#[tokio::test]
async fn it_makes_a_new_broker_a_cluster_of_one_and_wakes_it() {
    let mut broker = TestBroker::unformed();
    let account = broker.system_account();
    let seed = |data: &Path| {
        let output = program().args(["seed", "test-0"]).arg(data).arg(&account).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (is_done, said) = seed(&broker.data());
    assert!(is_done && said.contains("cluster of one"), "{said}");
    let (https_port, admin_port, mqtt_port) = (free_port(), free_port(), free_port());
    let config = contract::Ingress { https_port, admin_port, mqtt_port, ..config(&broker) };
    let json = serde_json::to_string(&config).unwrap();
    let _started = Started(Some(program().env(contract::VARIABLE, json).spawn().unwrap()));
    assert!(broker.serves_within(LIMIT).await, "{}", broker.log());
    let (is_done, said) = seed(&broker.data());
    assert!(is_done && said.contains("member of a cluster before"), "{said}");
    let earlier = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(earlier.path().join("jetstream/A/streams/events")).unwrap();
    let (is_done, said) = seed(earlier.path());
    assert!(!is_done && said.contains("earlier version"), "{said}");
}
