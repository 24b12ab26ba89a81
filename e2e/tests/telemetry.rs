//! One event's way in a real OpenTelemetry Collector: its own log is the witness.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};
use serde_json::json;

use crate::harness::objects::handler;
use crate::harness::{World, world};

#[tokio::test]
async fn publish_and_process_are_one_trace_and_metrics_and_logs_arrive() {
    world("telemetry", async |world| {
        world.begin(1).await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        world.publish("traced", 20, 0).await;
        world.all_received(20, 60).await;
        world
            .until("publish and process in one trace", 90, async || {
                let spans = spans(&collector_log(&world).await);
                let joined = spans.values().filter(|names| {
                    names.iter().any(|name| name == "publish events")
                        && names.iter().any(|name| name == "process events")
                });
                (joined.count() >= 20).then_some(())
            })
            .await;
        for metric in [
            "messaging.client.sent.messages",
            "messaging.process.duration",
            "tidegate.handler.lag",
            "controller_runtime_reconcile_total",
        ] {
            world.until(metric, 120, async || collector_log(&world).await.contains(metric).then_some(())).await;
        }
    })
    .await;
}

/// Names of spans by trace, from lines such as `publish events <trace id> <span id> key=value …`.
fn spans(log: &str) -> HashMap<String, Vec<String>> {
    let mut traces: HashMap<String, Vec<String>> = HashMap::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_hex = |word: &str, length| word.len() == length && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(at) = words.windows(2).position(|pair| is_hex(pair[0], 32) && is_hex(pair[1], 16)) else {
            continue;
        };
        traces.entry(words[at].to_owned()).or_default().push(words[..at].join(" "));
    }
    traces
}

async fn collector_log(world: &World) -> String {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "tidegate-telemetry");
    let found = pods.list(&ListParams::default().labels("app=collector")).await.unwrap();
    let mut log = String::new();
    for pod in found.items {
        let params = LogParams { since_seconds: Some(600), ..LogParams::default() };
        log += &pods.logs(&pod.metadata.name.unwrap(), &params).await.unwrap_or_default();
    }
    log
}
