//! What telemetry costs a sidecar: none, traces of one event in a hundred, traces of all; with a real Collector.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tempfile::TempDir;
use tidegate_test_broker::free_port;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::contender::{Contender, Load, Program, compare};
use crate::events::Shape;
use crate::figures::Group;
use crate::process::{Environment, Process};
use crate::{CONCURRENCY, LIMIT, report};

/// Events of a round.
const EVENTS: u64 = 15_000;
/// One event in this many comes with the sampled flag, as an ingress that samples so sets it.
const SAMPLED: u64 = 100;

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    let Ok(program) = std::env::var("OTELCOL") else {
        let note = "not measured: OTELCOL names no Collector".to_owned();
        report::note(&format!("telemetry: {note}"));
        return Ok(Group { notes: vec![note], ..Group::default() });
    };
    let collector = Collector::start(Path::new(&program)).await?;
    let broker = Broker::default().await;
    let exporting = |sampler: &str| {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.port)),
            ("OTEL_TRACES_SAMPLER", sampler.to_owned()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let ways = [
        ("off", Environment::new()),
        ("1-percent", exporting("parentbased_always_on")),
        ("on", exporting("always_on")),
    ];
    let mut contenders = Vec::new();
    for (label, environment) in ways {
        let programs = bench.programs.clone();
        let program = Program::Sidecar { programs, configure: Box::new(|_| {}), environment };
        contenders.push(Contender::new(&broker, label, program).await);
    }
    let note = format!(
        "{EVENTS} events of 256 bytes a round, {CONCURRENCY} in flight; each has a trace context, one in {SAMPLED} is \
         sampled; `on` records all of them; metrics every second, an OpenTelemetry Collector takes all"
    );
    report::note(&format!("telemetry: {note}"));
    let shape = Shape { sampled: Some(SAMPLED), ..Shape::default() };
    let load = Load { events: EVENTS, shape, rounds: bench.rounds };
    let all = compare(bench, &broker, &contenders, load).await?;
    let mut group = Group { notes: vec![note], ..Group::default() };
    if let [off, some, on] = &all[..] {
        group.row("telemetry-1-percent-cpu-ratio", &some.ratio(off, |work| work.program), "<= 1.05")?;
        group.row("telemetry-on-cpu-ratio", &on.ratio(off, |work| work.program), "<= 1.2")?;
    }
    group.parties("telemetry", &all)?;
    Ok(group)
}

/// A Collector that takes everything and keeps nothing.
struct Collector {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Collector {
    async fn start(program: &Path) -> anyhow::Result<Self> {
        let (folder, port) = (TempDir::new()?, free_port());
        let file = folder.path().join("collector.yaml");
        std::fs::write(&file, config(port))?;
        let mut process = Process::spawn(program, &[format!("--config={}", file.display())], &Environment::new())?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            process.runs()?;
            ensure!(begun.elapsed() < LIMIT, "the Collector does not listen within {LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { port, _process: process, _folder: folder })
    }
}

fn config(port: u16) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"127.0.0.1:{port}\"}}}}}}}}
processors: {{batch: {{}}}}
exporters: {{debug: {{verbosity: basic}}}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [debug]}}
    metrics: {{receivers: [otlp], processors: [batch], exporters: [debug]}}
    logs: {{receivers: [otlp], processors: [batch], exporters: [debug]}}
"
    )
}
