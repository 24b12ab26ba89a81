//! The program as a process: its size, its end by SIGTERM, and what it says to a bad configuration.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Container, HANDLER, all_settled, config, eventually, publish};
use tidegate_broker_client::contract;
use tidegate_test_broker::TestBroker;
use tokio::net::TcpStream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate-handler-sidecar");
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Resident memory of an idle sidecar, in KiB.
const MEMORY: u64 = 12 * 1024;

struct Process(Child);

impl Process {
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn terminate(mut self) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        for _ in 0..200 {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor="multi_thread")]
async fn it_is_small_and_ends_well() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|request| {
        (204, if request.id() == "slow" { Duration::from_secs(1) } else { Duration::ZERO })
    })
    .await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let child = Command::new(PROGRAM)
        .env(contract::VARIABLE, serde_json::to_string(&config).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    eventually("it listens", async || TcpStream::connect(("127.0.0.1", config.admin_port)).await.is_ok()).await;
    for r in 0..3 {
    let t=std::time::Instant::now();
    support::publish_all(&broker, (0..20000).map(|i| format!("{r}-{i}"))).await;
    all_settled(&broker).await;
    eprintln!("TOOK {:?} RSS {}", t.elapsed(), process.resident());
    tokio::time::sleep(Duration::from_secs(3)).await;
    eprintln!("RSS idle {}", process.resident());
    }
    let resident = process.resident();
    assert!(resident <= MEMORY, "{resident} KiB resident");
    publish(&broker, "slow").await;
    eventually("it is in flight", async || container.count() == 101).await;
    let status = process.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(support::in_hand(&broker).await, 0, "the delivery in flight was finished and acknowledged");
    assert_eq!(container.count(), 101);
}

#[test]
fn a_bad_configuration_is_named() {
    for (value, expected) in [(None, "TIDEGATE_CONFIG: "), (Some("{}"), "TIDEGATE_CONFIG: missing field")] {
        let mut command = Command::new(PROGRAM);
        command.env_remove(contract::VARIABLE);
        if let Some(value) = value {
            command.env(contract::VARIABLE, value);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(expected), "{error}");
    }
}
