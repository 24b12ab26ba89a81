//! The way to a topic: a running `tidegate dev`, a cluster, or an address.

use std::fs;
use std::path::{Path, PathBuf};

use http::Uri;
use tokio::net::TcpStream;

use super::Place;
use super::cluster::{self, PodPort};
use crate::dev::running::{Running, RunningTopic};
use crate::dev::state;
use crate::failure::Failure;
use crate::terminal::text;

/// The way to a topic.
pub struct Way {
    /// Its address.
    pub url: Uri,
    /// The certificate authority of that address, PEM.
    pub ca: String,
    /// What is shown to it.
    pub token: Token,
    /// What is connected to.
    pub reach: Reach,
}

/// A token.
pub enum Token {
    /// None is needed.
    None,
    /// It is in this file, which is read again for each connection.
    File(PathBuf),
    /// This one.
    Text(String),
}

/// How a connection is made.
pub enum Reach {
    /// To `host:port`.
    Tcp(String),
    /// Through the API server to a port of a pod.
    Pod(Box<PodPort>),
}

/// What bytes go over.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

impl Way {
    /// Finds it.
    ///
    /// # Errors
    /// There is no such topic, or more than one.
    pub async fn find(topic: &str, place: &Place) -> Result<Self, Failure> {
        if let (Some(url), Some(ca)) = (&place.url, &place.ca) {
            return Self::named(url, ca, place);
        }
        if place.context.is_none() {
            let folders = match &place.state {
                Some(folder) => vec![folder.clone()],
                None => runs(),
            };
            let running: Vec<Running> = folders.iter().filter_map(|folder| read(folder)).collect();
            if let Some((running, found)) = choose(topic, place.namespace.as_deref(), &running)? {
                return Self::local(running, found, place);
            }
            if let Some(folder) = &place.state {
                return Err(Failure::Failed(format!(
                    "no tidegate dev with topic {} runs in {}: start it",
                    text(topic),
                    folder.display()
                )));
            }
        }
        cluster::way(topic, place).await
    }

    fn named(url: &str, ca: &Path, place: &Place) -> Result<Self, Failure> {
        let token = place.token_file.clone().map_or(Token::None, Token::File);
        Self::to(url, read_file(ca)?, token, place)
    }

    fn local(running: &Running, topic: &RunningTopic, place: &Place) -> Result<Self, Failure> {
        let token = topic.token_file.clone().map_or(Token::None, Token::File);
        Self::to(&topic.url, read_file(&running.ca)?, token, place)
    }

    fn to(url: &str, ca: String, token: Token, place: &Place) -> Result<Self, Failure> {
        let url = address(url)?;
        let own = || format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(443));
        let reach = Reach::Tcp(place.connect.clone().unwrap_or_else(own));
        Ok(Self { url, ca, token, reach })
    }

    /// Connects, without TLS yet.
    ///
    /// # Errors
    /// Nothing is there.
    pub async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        match &self.reach {
            Reach::Tcp(address) => match TcpStream::connect(address).await {
                Ok(stream) => {
                    // One event at a time goes over it.
                    let _ = stream.set_nodelay(true);
                    Ok(Box::new(stream))
                }
                Err(error) => Err(format!("{address}: {error}")),
            },
            Reach::Pod(pod) => pod.connect().await,
        }
    }

    /// The token.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn token(&self) -> Result<Option<String>, Failure> {
        match &self.token {
            Token::None => Ok(None),
            Token::File(file) => Ok(Some(read_file(file)?.trim().to_owned())),
            Token::Text(token) => Ok(Some(token.clone())),
        }
    }
}

/// A topic's address.
///
/// # Errors
/// It is none that is published to.
pub fn address(url: &str) -> Result<Uri, Failure> {
    let parsed = url.parse::<Uri>().ok();
    let parsed = parsed.filter(|url| url.scheme_str() == Some("https") && url.host().is_some());
    parsed.ok_or_else(|| Failure::Usage(format!("{}: the address of a topic begins with https://", text(url))))
}

fn read_file(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

/// The folders of all projects of this user.
fn runs() -> Vec<PathBuf> {
    let entries = state::home().ok().and_then(|home| fs::read_dir(home).ok());
    entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn read(folder: &Path) -> Option<Running> {
    serde_json::from_str(&state::running(folder)?).ok()
}

/// The topic of this name among those that run here; `None`: there is none.
fn choose<'a>(
    topic: &str,
    namespace: Option<&str>,
    running: &'a [Running],
) -> Result<Option<(&'a Running, &'a RunningTopic)>, Failure> {
    let is_meant =
        |found: &RunningTopic| found.id.name() == topic && namespace.is_none_or(|own| found.id.namespace() == own);
    let all = running.iter().flat_map(|running| running.topics.iter().map(move |topic| (running, topic)));
    let mut found = all.filter(|(_, topic)| is_meant(topic));
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Failure::Usage(format!(
            "several topics {} run here: say which one with --namespace, or with --state as tidegate dev has it",
            text(topic)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::TopicId;

    use super::*;

    fn running(topics: &[(&str, &str)]) -> Running {
        let topic = |(namespace, name): &(&str, &str)| RunningTopic {
            id: TopicId::new(*namespace, *name).unwrap(),
            url: format!("https://localhost:1/{namespace}/{name}"),
            http: None,
            token_file: None,
        };
        Running { pid: 1, ca: "ca".into(), topics: topics.iter().map(topic).collect() }
    }

    #[test]
    fn one_topic_of_a_name_is_meant_and_of_several_it_must_be_said_which() {
        let runs = [running(&[("a", "orders"), ("b", "orders")]), running(&[("a", "bills")])];
        let chosen = |topic: &str, namespace: Option<&str>| {
            choose(topic, namespace, &runs).map(|found| found.map(|(_, topic)| topic.id.to_string()))
        };
        assert_eq!(chosen("bills", None).unwrap().unwrap(), "a/bills");
        assert_eq!(chosen("orders", Some("b")).unwrap().unwrap(), "b/orders");
        assert_eq!(chosen("others", None).unwrap(), None);
        assert!(chosen("orders", None).unwrap_err().to_string().contains("--namespace"));
    }

    #[test]
    fn an_address_is_of_https() {
        assert!(address("https://localhost:1/a/b").is_ok());
        for bad in ["http://localhost/a", "localhost", "https:///a", ""] {
            assert!(address(bad).unwrap_err().to_string().contains("https://"), "{bad}");
        }
    }
}
