//! `tidegate tail`: the latest stored events of a topic, and those that come.

use std::io::Write;
use std::time::Duration;

use kube::api::Api as KubeApi;
use serde_json::value::RawValue;
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_operator::handler::reference;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cluster::explain;
use crate::failure::Failure;
use crate::moment::{self, Moment};
use crate::output::{self, Format, document, print, row};
use crate::shown;
use crate::stored::{Api, CALL_TIMEOUT, CallError, Change, Place, Stored, parse, with_query};
use crate::target::{self, Kind, Target};
use crate::terminal::{self, text};

/// Between two beginnings of a watch at least, whatever becomes of it.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// After what is away has been away for a while.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Widths of the columns, for what they mostly hold.
const WIDTHS: [usize; 6] = [8, 27, 24, 20, 36, 0];

/// What `tidegate tail` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// TOPIC or topic/TOPIC: an EventTopic. handler/HANDLER: the topic of an EventHandler, of which the events that have its
    /// types are shown (its sources and expression are not looked at). Kinds also as kubectl names them.
    #[arg(value_name = "TOPIC", value_parser = target::topic_or_handler)]
    pub target: Target,
    /// Number of events before the end to begin with.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, conflicts_with = "since")]
    pub last: u64,
    /// Begin with what was stored at this time (RFC 3339) or later; or how long ago, by the broker's clock: 90m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub since: Option<Moment>,
    /// Of these, only events of this type, or of the types beneath a prefix (com.shop.order.*). May be repeated.
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Continue with what comes, until it is ended (Ctrl-C).
    #[arg(short, long)]
    pub follow: bool,
    /// Output: text, json (a document in each line) or yaml. The last two have all of the data.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Where the topic is.
    #[command(flatten)]
    pub place: Place,
}

/// Shows events.
///
/// # Errors
/// They cannot be read. What is away is waited for once it was there, with `--follow`.
pub async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = Api::connect(&arguments.place).await?;
    run_with(&api, arguments, &mut output::stdout()).await
}

/// The same with an API, and somewhere else to write to.
///
/// # Errors
/// As [`run`].
pub async fn run_with(api: &Api, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (path, types) = events_of(api, &arguments.target).await?;
    let mut shown = Shown { out, format: arguments.output, types: [&types, &arguments.types], is_first: true };
    let times: Vec<_> = arguments.since.map(|since| ("since", since)).into_iter().collect();
    let last = arguments.since.is_none().then(|| ("last", arguments.last.to_string()));
    if arguments.follow {
        let start = last.into_iter().chain(api.times(&path, &times).await?).collect();
        return follow(api, &path, start, &mut shown).await;
    }
    let mut pages = api.pages(path, last.into_iter().collect(), times, None);
    while let Some(page) = pages.next().await? {
        for item in &page {
            shown.item(item)?;
        }
        output::flush(shown.out)?;
    }
    Ok(())
}

/// Watches, and begins again where a watch ended.
async fn follow(
    api: &Api,
    path: &str,
    start: Vec<(&'static str, String)>,
    shown: &mut Shown<'_>,
) -> Result<(), Failure> {
    let mut next: Option<u64> = None;
    let mut pause = WATCH_PAUSE;
    loop {
        let begun = Instant::now();
        let from = next.map_or_else(|| start.clone(), |next| vec![("fromSequence", next.to_string())]);
        let query = from.into_iter().chain([("watch", "true".to_owned())]);
        match watch(api, &with_query(path, query), &mut next, shown).await {
            Ok(()) => pause = WATCH_PAUSE,
            // Before anything was there, something is wrong that is not waited for.
            Err(CallError::Final(failure, _)) => return Err(failure),
            Err(error) if next.is_none() => return Err(error.into()),
            Err(error) => {
                pause = if begun.elapsed() > MAX_PAUSE { WATCH_PAUSE } else { (2 * pause).min(MAX_PAUSE) };
                terminal::say(&format!("tidegate: {}; asking again in {} s", Failure::from(error), pause.as_secs()));
            }
        }
        sleep_until(begun + WATCH_PAUSE).await;
        if pause > WATCH_PAUSE {
            sleep(pause).await;
        }
    }
}

async fn watch(api: &Api, path: &str, next: &mut Option<u64>, shown: &mut Shown<'_>) -> Result<(), CallError> {
    // Once it was there, what is away is said each time.
    let mut watch = if next.is_none() { api.watch_in_turn(path).await? } else { api.watch(path).await? };
    while let Some(change) = watch.next().await? {
        match change {
            Change::Begun(after) => *next = Some(next.unwrap_or(0).max(after + 1)),
            Change::Added(item) => {
                let sequence = shown.item(&item)?;
                output::flush(shown.out)?;
                *next = Some(sequence + 1);
            }
        }
    }
    Ok(())
}

/// The path of a target's events, and which types of them are meant.
async fn events_of(api: &Api, target: &Target) -> Result<(String, Vec<String>), Failure> {
    match target.kind {
        Kind::Handler => events_of_handler(api, &target.name).await,
        _ => Ok((api.path(None, "eventtopics", &target.name, "events")?, Vec::new())),
    }
}

async fn events_of_handler(api: &Api, name: &str) -> Result<(String, Vec<String>), Failure> {
    let handlers: KubeApi<EventHandler> = KubeApi::namespaced(api.client().clone(), api.namespace());
    let shown = format!("EventHandler {}/{}", text(api.namespace()), text(name));
    let handler = timeout(CALL_TIMEOUT, handlers.get(name)).await.map_err(|_| CallError::late())?;
    let handler = handler
        .map_err(|error| Failure::Failed(explain(&shown, &error, "ask for the right to get it, or name its topic")))?;
    let topic = reference::topic_of(&handler);
    let path = api.path(Some(&topic.namespace), "eventtopics", &topic.name, "events")?;
    Ok((path, handler.spec.filter.map(|filter| filter.types).unwrap_or_default()))
}

/// Where events are shown, and which.
struct Shown<'a> {
    out: &'a mut dyn Write,
    format: Format,
    types: [&'a [String]; 2],
    is_first: bool,
}

impl Shown<'_> {
    /// Shows an item, if it is meant. Its sequence.
    fn item(&mut self, item: &RawValue) -> Result<u64, Failure> {
        let stored: Stored = parse(item)?;
        let event = stored.event();
        let event_type = event.as_ref().map_or("", |event| event.event_type());
        if !self.types.iter().all(|types| layout::has_type(types, event_type)) {
            return Ok(stored.sequence);
        }
        if self.format != Format::Text {
            print(self.out, &document(item.get(), self.format))?;
            return Ok(stored.sequence);
        }
        if self.is_first {
            self.is_first = false;
            print(self.out, &row(WIDTHS, ["SEQUENCE", "TIME", "TYPE", "SOURCE", "ID", "DATA"]))?;
        }
        let (source, id) = event.as_ref().map_or(("", ""), |event| (event.source(), event.id()));
        let data = event.as_ref().map_or_else(|| stored.problem.clone().unwrap_or_default(), shown::beginning);
        let sequence = stored.sequence.to_string();
        print(self.out, &row(WIDTHS, [&sequence, &stored.time, event_type, source, id, &data]))?;
        Ok(stored.sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use kube::{Client, Config};
    use tokio::net::TcpListener;

    use super::*;
    use crate::stored::Location;

    /// Time passes by itself where everything waits.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_not_waited_for_without_an_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = Config::new(format!("http://{address}").parse().unwrap());
        (config.connect_timeout, config.read_timeout) = (None, None);
        let api = Api::new(Client::try_from(config).unwrap(), Location { namespace: "shop".into(), context: None });
        let begun = Instant::now();
        let target = "handler/billing".parse().unwrap();
        let ended = timeout(2 * CALL_TIMEOUT, events_of(&api, &target)).await.expect("it is waited for").unwrap_err();
        assert!(ended.to_string().contains("has not answered in time") && begun.elapsed() == CALL_TIMEOUT, "{ended}");
    }
}
