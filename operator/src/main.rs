//! Tidegate's operator: starts, waits for its turn, works, and ends in order.

use std::error::Error as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use tidegate_operator::args::Args;
use tidegate_operator::check;
use tidegate_operator::context::Context;
use tidegate_operator::health::{self, Health};
use tidegate_operator::https;
use tidegate_operator::kubernetes::claim;
use tidegate_operator::kubernetes::leader::Leadership;
use tidegate_operator::reconcile::figures;
use tidegate_operator::run::run;
use tidegate_telemetry::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    // Before anything that could use TLS: two providers in one process are a panic at the first handshake.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    // Not a subcommand of the flags below: it needs none of them.
    if std::env::args().nth(1).as_deref() == Some(check::NAME) {
        return check().await;
    }
    let args = Args::parse();
    let service = Service { name: "tidegate-operator", version: env!("CARGO_PKG_VERSION"), attributes: Vec::new() };
    let telemetry = match tidegate_telemetry::init(service) {
        Ok(telemetry) => telemetry,
        Err(_) => return ExitCode::FAILURE,
    };
    // Boxed: it holds every controller, and would lie on the main thread's stack.
    let outcome = Box::pin(operate(args)).await;
    if let Err(error) = &outcome {
        tracing::error!(%error, "the operator ends");
    }
    telemetry.shutdown();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What `helm test` runs, with a few lines on what was found.
async fn check() -> ExitCode {
    let args = check::Args::parse_from(std::env::args().skip(1));
    let outcome = match kube::Client::try_default().await {
        Ok(client) => check::run(client, &args, &mut io::stdout()).await,
        Err(error) => Err(check::CheckError::NoApiServer(error)),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let _ = writeln!(io::stderr(), "failed: {error}{why}");
    ExitCode::FAILURE
}

async fn operate(args: Args) -> Result<(), Failure> {
    let health = Health::default();
    let mut serving = JoinSet::new();
    serving.spawn(health::serve(args.admin_port, health.clone()));
    let client = kube::Client::try_default().await?;
    let version = client.apiserver_version().await?;
    tracing::info!(kubernetes = version.git_version, "connected");
    serving.spawn(https::run(client.clone(), args.clone(), Arc::default()));
    health.set_ready(true);
    let stop = on_signal()?;
    let leads = Arc::<AtomicBool>::default();
    figures::export_leader(&leads);
    let mut leadership = Leadership::join(client.clone(), &args).await?;
    tokio::select! {
        () = leadership.won() => {}
        () = stop.cancelled() => return Ok(()),
        ended = end_of(&mut serving) => return ended,
    }
    tracing::info!(pod = args.pod_name, "leading");
    leads.store(true, Ordering::Relaxed);
    let outcome = tokio::select! {
        outcome = lead(client, args, &health, stop) => outcome,
        // Another one leads now: nothing more may be written, not even what was begun.
        () = leadership.lost() => Err("the lease was lost".into()),
        ended = end_of(&mut serving) => ended,
    };
    leads.store(false, Ordering::Relaxed);
    leadership.leave().await;
    outcome
}

/// Works, when no other release does.
async fn lead(client: kube::Client, args: Args, health: &Health, stop: CancellationToken) -> Result<(), Failure> {
    let mut claim = tokio::select! {
        claim = claim::take(client.clone(), &args, health) => claim?,
        () = stop.cancelled() => return Ok(()),
    };
    let context = Context { health: health.clone(), ..Context::new(client, args) };
    let outcome = tokio::select! {
        () = run(context, stop) => Ok(()),
        () = claim.lost() => Err("the cluster's lease was lost".into()),
    };
    claim.leave().await;
    outcome
}

/// The first end of what should have none.
async fn end_of(serving: &mut JoinSet<io::Result<()>>) -> Result<(), Failure> {
    match serving.join_next().await {
        Some(ended) => Ok(ended??),
        None => Ok(()),
    }
}

/// Cancelled at the first SIGTERM or SIGINT.
fn on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: what was begun is finished");
        cancelled.cancel();
    });
    Ok(stop)
}
