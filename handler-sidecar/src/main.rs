//! The sidecar's process: configuration, telemetry, one thread, SIGTERM. As `tidegate-handler-sidecar drain` it asks
//! the running one to drain and waits until it has: the `preStop` hook of the sidecar's container.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;

use opentelemetry::KeyValue;
use tidegate_broker_client::contract::Sidecar;
use tidegate_handler_sidecar::{Error, drained_within, from_environment, run};
use tidegate_telemetry::Service;
use tokio::signal::unix::{SignalKind, signal};

/// The longest status line of an answer.
const STATUS_LIMIT: u64 = 256;

fn main() -> ExitCode {
    abort_on_panic();
    let done = match std::env::args().nth(1).as_deref() {
        Some("drain") => drain(),
        _ => program(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not as a log line: what fails may be the configuration of the logs.
            eprintln!("tidegate-sidecar: {error}");
            ExitCode::FAILURE
        }
    }
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

fn program() -> Result<(), Box<dyn std::error::Error>> {
    // The only provider in the tree; that it is set already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = from_environment()?;
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

/// Asks inside the pod, where alone it is answered.
fn drain() -> Result<(), Box<dyn std::error::Error>> {
    let config = from_environment()?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, config.admin_port))?;
    stream.set_read_timeout(Some(drained_within(&config)))?;
    stream.write_all(b"GET /drain HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream).take(STATUS_LIMIT).read_line(&mut status)?;
    if status.contains(" 200 ") { Ok(()) } else { Err(format!("not drained: {}", status.trim()).into()) }
}

async fn serve(config: Sidecar) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    tracing::info!(topic = config.topic, handler = config.handler_name(), "starting the sidecar");
    let stop = async move {
        terminate.recv().await;
        tracing::info!("received SIGTERM");
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
            KeyValue::new("tidegate.handler", config.handler_name().to_owned()),
        ],
    }
}
