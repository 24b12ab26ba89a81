//! The sidecar's process: configuration, telemetry, one thread, SIGTERM.

use std::process::ExitCode;

use opentelemetry::KeyValue;
use tidegate_broker_client::contract::Sidecar;
use tidegate_handler_sidecar::{Error, config, run};
use tidegate_telemetry::Service;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not as a log line: what fails may be the configuration of the logs.
            eprintln!("tidegate-sidecar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn program() -> Result<(), Box<dyn std::error::Error>> {
    // The only provider in the tree; that it is set already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = config::from_environment()?;
    let telemetry = tidegate_telemetry::init(service(&config))?;
    // One thread: a sidecar's work is small steps of I/O beside somebody else's container, and every further
    // thread costs memory in every pod and a hand-over for every event.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config));
    // Its end sends what the kernel has not sent yet; the runtime's own tasks have nothing to finish.
    drop(runtime);
    telemetry.shutdown();
    Ok(ended?)
}

async fn serve(config: Sidecar) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    tracing::info!(topic = config.topic, handler = config.handler, "the sidecar starts");
    let stop = async move {
        terminate.recv().await;
        tracing::info!("SIGTERM");
    };
    run(config, stop).await
}

fn service(config: &Sidecar) -> Service {
    Service {
        name: "tidegate-sidecar",
        version: env!("CARGO_PKG_VERSION"),
        attributes: vec![
            KeyValue::new("service.namespace", config.namespace.clone()),
            KeyValue::new("tidegate.topic", config.topic.clone()),
            KeyValue::new("tidegate.handler", config.handler.clone()),
        ],
    }
}
