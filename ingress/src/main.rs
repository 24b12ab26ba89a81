//! The ingress container of a broker pod. See the library for what it does.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use opentelemetry::KeyValue;
use tidegate_broker_client::{contract, seed};
use tidegate_ingress::{Ingress, Limits, config, shutdown::Signals};
use tidegate_telemetry::Service;

fn main() -> ExitCode {
    abort_on_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((command, rest)) = arguments.split_first() {
        return if command == "seed" { seed(rest) } else { unknown(command) };
    }
    // First of all: TLS configurations of the broker connection and of the exporters use it.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot start the ingress");
            ExitCode::FAILURE
        }
    }
}

fn unknown(command: &str) -> ExitCode {
    eprintln!("{command}: not a command; there is seed, and none to serve");
    ExitCode::FAILURE
}

/// A panic ends the program: the kubelet starts it again, what was acknowledged is stored, and what was in progress
/// comes again. A program that continues with half of its tasks would look healthy.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// `seed <server name> <folder> <system account>`: what an init container does before the broker's first start
/// ([`tidegate_broker_client::seed`]). What goes wrong is on the standard error, and so in the pod's status.
fn seed(arguments: &[String]) -> ExitCode {
    let [server, data, system_account] = arguments else {
        eprintln!("seed: say the server's name, its folder and the system account");
        return ExitCode::FAILURE;
    };
    match seed::write(Path::new(data), system_account, server) {
        Ok(seeded) => {
            eprintln!("{}", seeded.explanation());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let config = config::from_env();
    let telemetry = tidegate_telemetry::init(Service {
        name: "tidegate-ingress",
        version: env!("CARGO_PKG_VERSION"),
        attributes: config.as_ref().map(attributes).unwrap_or_default(),
    })?;
    // Two threads: TLS of many publishers uses both cores of a small node, and more would only cost memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(config));
    telemetry.shutdown();
    result
}

async fn serve(config: Result<contract::Ingress, config::ConfigError>) -> Result<(), Box<dyn Error>> {
    let signals = Signals::install()?;
    let ingress = Ingress::bind(&config?, Limits::default()).await?;
    let (https, mqtt, admin) = (ingress.https_address()?, ingress.mqtt_address()?, ingress.admin_address()?);
    tracing::info!(%https, %mqtt, %admin, "accepting connections");
    ingress.run(signals.wait()).await;
    Ok(())
}

fn attributes(config: &contract::Ingress) -> Vec<KeyValue> {
    vec![
        KeyValue::new("k8s.namespace.name", config.namespace.clone()),
        KeyValue::new("tidegate.broker", config.broker.clone()),
    ]
}
