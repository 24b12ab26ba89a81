//! `tidegate send`: publishes events, and says what became of each.

mod answer;
mod cluster;
mod connection;
mod events;
mod way;

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_cloudevents::Event;

use crate::failure::Failure;
use crate::output::Format;
use crate::send::answer::Answer;
use crate::send::connection::Connection;
use crate::send::way::Way;
use crate::terminal::print;

/// The largest file of events.
const MAX_INPUT: u64 = 256 << 20;

/// What `tidegate send` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the EventTopic.
    pub topic: String,
    /// Data of the event: JSON, or else a text. @FILE reads a file, - standard input.
    #[arg(short, long, value_name = "DATA", conflicts_with = "file")]
    pub data: Option<String>,
    /// File with one event in each line, as JSON: a CloudEvent if it has specversion (what it lacks of id, source, type and
    /// time is added), else the data of one. - reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Type of events that say none.
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "tidegate.send")]
    pub event_type: String,
    /// Source of events that say none.
    #[arg(long, default_value = "/tidegate/send")]
    pub source: String,
    /// Id of the event. Default: a new one. The same id again within the topic's deduplicationWindow is not stored twice.
    #[arg(long, conflicts_with = "file")]
    pub id: Option<String>,
    /// Subject of events that say none.
    #[arg(long)]
    pub subject: Option<String>,
    /// Further attribute of each event.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// Output: text, json (a document in each line) or yaml.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// How long one event may take, with all its tries.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Where the topic is.
    #[command(flatten)]
    pub place: Place,
}

/// Where the topic is. Without any of these: the running `tidegate dev` that has the topic, else the cluster of the
/// kubeconfig.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Namespace of the topic. Default: the only one that `tidegate dev` has it in; in a cluster that of the context.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Folder of the `tidegate dev` that is meant (--state there).
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["context", "url"])]
    pub state: Option<PathBuf>,
    /// Context of the kubeconfig: the topic is in that cluster.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// ServiceAccount whose token is shown to a topic of a cluster. You need the right to create its tokens.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub service_account: String,
    /// Host and port to connect to in place of a forwarded port of the broker, as `curl --connect-to` has it.
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<String>,
    /// Address of the topic, https://…: nothing else is asked for it.
    #[arg(long, requires = "ca")]
    pub url: Option<String>,
    /// File with the certificate authority of --url, PEM.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// File with a token for --url.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub token_file: Option<PathBuf>,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Sends everything, and says what became of it.
///
/// # Errors
/// Something was not stored. What can be is stored nevertheless.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let events = read(&arguments)?;
    let timeout = Duration::from_secs(arguments.timeout);
    let way = Way::find(&arguments.topic, &arguments.place).await?;
    let mut connection = Connection::new(way);
    let (mut refused, count) = (0, events.len());
    for (number, event) in events.iter().enumerate() {
        match connection.publish(event, timeout).await {
            Ok(answer) => print(&answer::shown(event, &answer, arguments.output))?,
            Err(Failure::Refused(why)) => {
                refused += 1;
                print(&answer::shown(event, &Answer::Refused(why), arguments.output))?;
            }
            Err(error) => {
                return Err(Failure::Failed(format!(
                    "{error}; {number} of {count} events were answered: send the others again, with the same ids if they have any"
                )));
            }
        }
    }
    match refused {
        0 => Ok(()),
        _ => Err(Failure::Refused(format!("{refused} of {count} events were refused: correct them as it says"))),
    }
}

/// The events that are asked for.
fn read(arguments: &Arguments) -> Result<Vec<Event>, Failure> {
    let defaults = events::Defaults {
        event_type: &arguments.event_type,
        source: &arguments.source,
        subject: arguments.subject.as_deref(),
        attributes: &arguments.attributes,
    };
    match (&arguments.file, &arguments.data) {
        (Some(file), _) => events::of_lines(&input(&file.to_string_lossy())?, &defaults),
        (None, data) => {
            let data = data.as_ref().map(|data| match data.strip_prefix('@') {
                Some(file) => input(file),
                None if data == "-" => input("-"),
                None => Ok(data.clone()),
            });
            Ok(vec![events::one(data.transpose()?.as_deref(), arguments.id.as_deref(), &defaults)?])
        }
    }
}

/// A file's content; `-`: that of standard input.
fn input(file: &str) -> Result<String, Failure> {
    let read = || {
        let from: Box<dyn std::io::Read> =
            if file == "-" { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(file)?) };
        let mut text = String::new();
        from.take(MAX_INPUT + 1).read_to_string(&mut text).map(|_| text)
    };
    let text = read().map_err(|error| Failure::Usage(format!("{file}: {error}")))?;
    if text.len() as u64 > MAX_INPUT {
        return Err(Failure::Usage(format!("{file}: is larger than 256 MiB: send it in parts")));
    }
    Ok(text)
}
