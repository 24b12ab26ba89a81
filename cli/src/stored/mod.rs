//! The aggregated API `subresources.tidegate.io`, asked with the rights of the user's kubeconfig (docs/api.md).

mod place;
mod refusal;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidegate_cloudevents::Event;
use tokio::time::{sleep, timeout};

use crate::cluster;
use crate::failure::Failure;
use crate::moment::Moment;
use crate::target::is_name;
use crate::terminal::text;
pub use place::{Location, Place};
pub use refusal::CallError;
pub use watch::{Change, Watch};

/// The API's group and version.
const API: &str = "/apis/subresources.tidegate.io/v1alpha1";
/// A call, which the API ends after 20 s.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer in bytes: a page of 4 MiB of data, or one event that is larger, with all of its characters escaped.
const MAX_ANSWER: usize = 128 << 20;
/// How often a page is asked for again where too many others ask.
const MAX_TURNS: usize = 5;
/// Before it is.
const TURN_PAUSE: Duration = Duration::from_secs(2);
/// Items of a page at most.
const MAX_PAGE: u64 = 500;

/// The API, for a namespace.
pub struct Api {
    client: Client,
    location: Location,
}

/// A list as the API answers with it.
#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    items: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(rename = "continue")]
    next: Option<String>,
    /// An operator of an earlier version does not say it.
    first_sequence: Option<u64>,
    last_sequence: u64,
    time: String,
}

#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

/// What is in an item, of events and of dead letters.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stored {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored.
    pub time: String,
    event: Option<Box<RawValue>>,
    /// Why it is no event.
    pub problem: Option<String>,
    /// Then what it is, in base64.
    pub data_base64: Option<String>,
}

impl Stored {
    /// The event, in the JSON format of CloudEvents.
    pub fn event_json(&self) -> Option<&str> {
        self.event.as_deref().map(RawValue::get)
    }

    /// The event, if it is one.
    pub fn event(&self) -> Option<Event> {
        tidegate_cloudevents::json::decode(&Bytes::copy_from_slice(self.event_json()?.as_bytes())).ok()
    }
}

impl Api {
    /// That of the kubeconfig's cluster.
    ///
    /// # Errors
    /// There is no kubeconfig.
    pub async fn connect(place: &Place) -> Result<Self, Failure> {
        let connected = cluster::client(place.context.as_deref()).await.map_err(|error| {
            Failure::Failed(format!("no cluster is reached: {error}: set KUBECONFIG, or correct --context"))
        })?;
        Ok(Self::new(connected.0, place.or(connected.1)))
    }

    /// That of a client, which must not repeat by itself what is answered with 503.
    pub fn new(client: Client, location: Location) -> Self {
        Self { client, location }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.location.namespace
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The path of a subresource, in this namespace or another one.
    ///
    /// # Errors
    /// A part is no name of Kubernetes.
    pub fn path(&self, namespace: Option<&str>, resource: &str, name: &str, rest: &str) -> Result<String, Failure> {
        let namespace = namespace.unwrap_or(self.namespace());
        for part in [namespace, name] {
            if !is_name(part) {
                let shown = text(part);
                return Err(Failure::Usage(format!("{shown:?} is no name that Kubernetes has: correct it")));
            }
        }
        Ok(format!("{API}/namespaces/{namespace}/{resource}/{name}/{rest}"))
    }

    /// The answer to a call, which may have a JSON document as its body.
    ///
    /// # Errors
    /// It is not answered, or refused.
    pub async fn call(&self, method: Method, path: &str, body: Option<&str>) -> Result<Bytes, CallError> {
        let answered = async { self.body(self.send(method, path, body).await?).await };
        timeout(CALL_TIMEOUT, answered).await.unwrap_or_else(|_| Err(CallError::late()))
    }

    /// The same, after a pause where too many others ask.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn call_in_turn(&self, method: Method, path: &str, body: Option<&str>) -> Result<Bytes, CallError> {
        let mut turns = 1;
        loop {
            match self.call(method.clone(), path, body).await {
                Err(CallError::Busy(_)) if turns < MAX_TURNS => turns += 1,
                answered => return answered,
            }
            sleep(TURN_PAUSE).await;
        }
    }

    /// Items of a list, page by page, of those that there are when the first page is answered. `times`: parameters that are
    /// times by the broker's clock. `limit`: so many items at most.
    pub fn pages(
        &self,
        path: String,
        query: Vec<(&'static str, String)>,
        times: Vec<(&'static str, Moment)>,
        limit: Option<u64>,
    ) -> Pages<'_> {
        Pages { api: self, path, query, times, left: limit, last: None, first: None, is_done: false }
    }

    /// Parameters that are times. For how long ago something was, the broker of the list is asked for its time: it gives
    /// messages theirs.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn times(
        &self,
        path: &str,
        times: &[(&'static str, Moment)],
    ) -> Result<Vec<(&'static str, String)>, CallError> {
        let is_relative = times.iter().any(|(_, time)| matches!(time, Moment::Ago(_)));
        let now = if is_relative { self.now(path).await? } else { Timestamp::MIN };
        Ok(times.iter().map(|(name, time)| (*name, time.before(now).to_string())).collect())
    }

    async fn now(&self, path: &str) -> Result<Timestamp, CallError> {
        // No event of a topic, and one dead letter without its data.
        let short = path.ends_with("/events").then(|| ("last", "0".to_owned()));
        let path = with_query(path, short.into_iter().chain([("limit", "1".to_owned())]));
        let metadata = list(&self.call_in_turn(Method::GET, &path, None).await?)?.metadata;
        metadata.time.parse().map_err(|error| other_version(error).into())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&str>) -> Result<http::Response<Body>, CallError> {
        let is_read = method == Method::GET;
        let request = Request::builder().method(method).uri(path);
        let request = match body {
            Some(json) => request.header(CONTENT_TYPE, "application/json").body(json.as_bytes().to_vec().into()),
            None => request.body(Body::empty()),
        };
        let request = request.map_err(Failure::usage)?;
        let response = self.client.send(request).await.map_err(|error| CallError::unreached(&error))?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await.unwrap_or_default();
        // Without the API, rights are refused that nobody can have.
        let is_there = !matches!(code.as_u16(), 403 | 404) || self.is_registered().await;
        Err(if is_there { CallError::refused(code, &body, is_read, &self.location) } else { CallError::unregistered() })
    }

    async fn body(&self, response: http::Response<Body>) -> Result<Bytes, CallError> {
        let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        collected.map(http_body_util::Collected::to_bytes).map_err(CallError::broken)
    }

    /// Whether the API server knows the API. It says so itself, to everybody.
    async fn is_registered(&self) -> bool {
        let request = Request::get("/apis/subresources.tidegate.io").body(Body::empty());
        let Ok(request) = request else { return true };
        let answered = timeout(CALL_TIMEOUT, self.client.send(request)).await;
        !matches!(answered, Ok(Ok(response)) if response.status() == StatusCode::NOT_FOUND)
    }
}

/// Items of a list, as they come: one page is in memory.
pub struct Pages<'a> {
    api: &'a Api,
    path: String,
    query: Vec<(&'static str, String)>,
    times: Vec<(&'static str, Moment)>,
    left: Option<u64>,
    /// The last sequence that there was at the beginning: what comes faster than it is read has no end.
    last: Option<u64>,
    /// The first sequence that is stored.
    first: Option<u64>,
    is_done: bool,
}

impl<'a> Pages<'a> {
    /// The next page, which may be empty; `None` after the last one.
    ///
    /// # Errors
    /// It is not answered, or refused.
    pub async fn next(&mut self) -> Result<Option<Vec<Box<RawValue>>>, CallError> {
        if self.is_done() {
            return Ok(None);
        }
        let times = self.api.times(&self.path, &self.times).await?;
        self.times.clear();
        self.query.extend(times);
        let limit = self.left.map_or(MAX_PAGE, |left| left.min(MAX_PAGE));
        let path = with_query(&self.path, self.query.iter().cloned().chain([("limit", limit.to_string())]));
        let answer = self.api.call_in_turn(Method::GET, &path, None).await?;
        let List { metadata, mut items } = list(&answer)?;
        let last = *self.last.get_or_insert(metadata.last_sequence);
        self.first = metadata.first_sequence;
        while items.last().is_some_and(|item| is_beyond(item, last)) {
            items.pop();
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(items.len() as u64);
        }
        self.query.retain(|(name, _)| *name != "continue");
        match metadata.next {
            Some(next) if next.parse::<u64>().is_ok_and(|next| next <= last) => self.query.push(("continue", next)),
            _ => self.is_done = true,
        }
        Ok(Some(items))
    }

    /// Whether there is no next page.
    pub fn is_done(&self) -> bool {
        self.is_done || self.left == Some(0)
    }

    /// The last sequence that there was when the first page was answered.
    pub fn last_sequence(&self) -> Option<u64> {
        self.last
    }

    /// The first sequence that was stored when the latest page was answered, where the operator says it.
    pub fn first_sequence(&self) -> Option<u64> {
        self.first
    }

    /// Where they are.
    pub fn location(&self) -> &'a Location {
        self.api.location()
    }

    /// Where the next page begins, where there is one.
    pub fn next_sequence(&self) -> Option<&str> {
        self.query.iter().find(|(name, _)| *name == "continue").map(|(_, next)| next.as_str())
    }
}

fn list(answer: &[u8]) -> Result<List, CallError> {
    serde_json::from_slice(answer).map_err(|error| other_version(error).into())
}

fn is_beyond(item: &RawValue, last: u64) -> bool {
    serde_json::from_str::<Numbered>(item.get()).is_ok_and(|item| item.sequence > last)
}

/// A path with parameters.
pub fn with_query(path: &str, query: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let pairs =
        query.into_iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// What is in an item.
///
/// # Errors
/// The API is of another version.
pub fn parse<T: DeserializeOwned>(item: &RawValue) -> Result<T, Failure> {
    serde_json::from_str(item.get()).map_err(other_version)
}

/// An answer as an item.
///
/// # Errors
/// As [`parse`].
pub fn raw(answer: &[u8]) -> Result<&RawValue, Failure> {
    serde_json::from_slice(answer).map_err(other_version)
}

/// A number for people.
pub fn number<T: ToString>(number: Option<T>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn other_version(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!(
        "the answer is not understood: {}: use the tidegate of the operator's version",
        text(&error.to_string())
    ))
}
