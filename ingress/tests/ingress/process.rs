//! The program itself: how it starts, what it needs, how it ends.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tidegate_broker_client::contract;
use tidegate_test_broker::{LIMIT, TestBroker, eventually, free_port};

use crate::support::{admin_status, config};

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
