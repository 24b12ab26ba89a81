//! A publisher that repeats each event until it was accepted: deduplication makes that harmless.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use tokio::sync::Mutex;

use crate::client::Http;

#[derive(Clone, clap::Args)]
pub struct Args {
    /// The topic's address.
    #[arg(long)]
    url: String,
    /// The topic's certificate authority.
    #[arg(long)]
    ca: String,
    /// The file with a ServiceAccount token for the topic, which the kubelet renews. Without it the publisher is anonymous.
    #[arg(long)]
    token: Option<PathBuf>,
    /// The ledger's address.
    #[arg(long)]
    ledger: String,
    /// The events' ids are <prefix>-<number>.
    #[arg(long)]
    prefix: String,
    /// The events' type.
    #[arg(long = "type", default_value = "test.event")]
    event_type: String,
    #[arg(long)]
    count: u64,
    /// Events a second; 0: as fast as possible.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Requests at the same time.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// The events' partition keys, in turn, named `<key-prefix>-<number>`; 0: none. Events of one key need `concurrency` 1 to be published in order.
    #[arg(long, default_value_t = 0)]
    keys: u64,
    #[arg(long, default_value = "key")]
    key_prefix: String,
    /// Events for which connections are kept; then others are made, for which the certificate authority is read again. 0: all.
    #[arg(long, default_value_t = 0)]
    events_per_connection: u64,
    /// An event that is not accepted within so many seconds is a failure.
    #[arg(long, default_value_t = 180)]
    patience: u64,
}

#[allow(clippy::print_stdout)] // its result, for the test's log
pub async fn run(args: Args) -> anyhow::Result<()> {
    let clients = Clients::new(&args)?;
    let began = Instant::now();
    let paced = stream::iter(0..args.count).then(|number| pace(number, &args, began));
    let sent = paced.map(|number| publish(&clients, &args, number)).buffer_unordered(args.concurrency);
    let mut sent = pin!(sent);
    let (mut accepted, mut latest, mut longest_gap) = (Vec::new(), Instant::now(), Duration::ZERO);
    while let Some(id) = sent.next().await {
        accepted.push(id?);
        longest_gap = longest_gap.max(latest.elapsed());
        latest = Instant::now();
    }
    let http = clients.client(args.count).await?;
    for ids in accepted.chunks(5000) {
        http.post(&format!("{}/accepted", args.ledger), ids.join("\n")).await?;
    }
    http.post(&format!("{}/gap", args.ledger), longest_gap.as_millis().to_string()).await?;
    println!("accepted {} in {:.1} s", accepted.len(), began.elapsed().as_secs_f64());
    Ok(())
}

async fn pace(number: u64, args: &Args, began: Instant) -> u64 {
    if args.rate > 0 {
        let due = Duration::from_secs_f64(number as f64 / args.rate as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    number
}

/// The client of the present connections.
struct Clients<'a> {
    args: &'a Args,
    /// With the number of the ones before it.
    latest: Mutex<(u64, Http)>,
}

impl<'a> Clients<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        Ok(Self { args, latest: Mutex::new((0, Http::new(Some(&args.ca))?)) })
    }

    /// For this event.
    async fn client(&self, number: u64) -> anyhow::Result<Http> {
        let wanted = number.checked_div(self.args.events_per_connection).unwrap_or_default();
        let mut latest = self.latest.lock().await;
        if wanted > latest.0 {
            *latest = (wanted, Http::new(Some(&self.args.ca))?);
        }
        Ok(latest.1.clone())
    }
}

async fn publish(clients: &Clients<'_>, args: &Args, number: u64) -> anyhow::Result<String> {
    let http = clients.client(number).await?;
    let id = format!("{}-{number}", args.prefix);
    let deadline = Instant::now() + Duration::from_secs(args.patience);
    loop {
        let mut request = Request::post(&args.url)
            .header("ce-specversion", "1.0")
            .header("ce-id", &id)
            .header("ce-source", "/e2e")
            .header("ce-type", &args.event_type)
            .header("content-type", "application/json");
        if let Some(token) = &args.token {
            let token = std::fs::read_to_string(token).with_context(|| token.display().to_string())?;
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        if args.keys > 0 {
            request = request.header("ce-partitionkey", format!("{}-{}", args.key_prefix, number % args.keys));
        }
        let request = request.body(Bytes::from(format!(r#"{{"number":{number}}}"#)))?;
        let wrong = match http.send(request).await {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => return Ok(id),
            Ok(answer) if answer.status().is_client_error() && answer.status() != StatusCode::TOO_MANY_REQUESTS => {
                anyhow::bail!("{id}: {} {:?}", answer.status(), answer.body())
            }
            Ok(answer) => anyhow::anyhow!("{}", answer.status()),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(wrong).context(id);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
