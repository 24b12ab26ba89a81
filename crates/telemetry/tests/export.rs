//! What leaves the process, seen by a Collector made of nothing but HTTP/2: each test runs itself again as the
//! program that reports, because the environment is read once per process.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not their helpers")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Says that this process is the program under observation.
const PROGRAM: &str = "TELEMETRY_TEST_PROGRAM";

/// The program: a span, a count, a log line; then the end, from inside a one-threaded runtime.
fn program() {
    let service = tidegate_telemetry::Service { name: "test", version: "0", attributes: Vec::new() };
    let guard = tidegate_telemetry::init(service).unwrap();
    runtime().block_on(async {
        opentelemetry::global::meter("test").u64_counter("tidegate.test.count").build().add(1, &[]);
        tracing::info_span!("the-span").in_scope(|| tracing::info!("the-log"));
        guard.shutdown();
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn run(test: &str, endpoint: Option<SocketAddr>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(PROGRAM, "1").env_remove("RUST_LOG");
    match endpoint {
        Some(address) => command.env(tidegate_telemetry::ENDPOINT, format!("http://{address}")),
        None => command.env_remove(tidegate_telemetry::ENDPOINT),
    };
    command.spawn().unwrap()
}

fn is_program() -> bool {
    let program = std::env::var_os(PROGRAM).is_some();
    if program {
        self::program();
    }
    program
}

type Export = (String, Bytes);

/// Answers every gRPC call with an empty message and status 0, and tells what came.
async fn collect(listener: TcpListener, exports: mpsc::Sender<Export>) {
    while let Ok((stream, _)) = listener.accept().await {
        let exports = exports.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let exports = exports.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                exports.send((path, body)).await.unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
                let response = Response::builder().header("content-type", "application/grpc").body(body).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), answer).await });
    }
}

#[test]
fn all_three_signals_arrive() {
    if !is_program() {
        runtime().block_on(observe_three_signals());
    }
}

async fn observe_three_signals() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut program = run("all_three_signals_arrive", Some(listener.local_addr().unwrap()));
    let (sender, mut exports) = mpsc::channel(16);
    let collector = tokio::spawn(collect(listener, sender));
    let mut missing = vec![("trace", "the-span"), ("logs", "the-log"), ("metrics", "tidegate.test.count")];
    while !missing.is_empty() {
        let export = tokio::time::timeout(Duration::from_secs(20), exports.recv()).await;
        let (path, body) = export.unwrap_or_else(|_| panic!("missing: {missing:?}")).unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        missing.retain(|(signal, content)| !(path.contains(signal) && body.contains(content)));
    }
    collector.abort();
    assert!(program.wait().unwrap().success());
}

#[test]
fn a_silent_collector_does_not_hold_up_the_end() {
    if is_program() {
        return;
    }
    // Listens, and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let mut program = run("a_silent_collector_does_not_hold_up_the_end", Some(listener.local_addr().unwrap()));
    assert!(program.wait().unwrap().success());
    // It waits three seconds; each signal's own limit is ten.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[test]
fn without_a_collector_the_program_runs() {
    if is_program() {
        return;
    }
    assert!(run("without_a_collector_the_program_runs", None).wait().unwrap().success());
}
