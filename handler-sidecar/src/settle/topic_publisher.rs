//! The ingress of another topic, to which this sidecar publishes as anybody would: replies and dead letters.
//!
//! A publish is over when the ingress has answered 202, which means: stored. All publishes share one connection
//! (HTTP/2). The certificate authority is read again for each connection, and the key for message ids after a publish
//! that was not stored, so that rotated ones are used without a restart.

mod connector;
pub mod letter;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tidegate_broker_client::contract::{self, Sidecar};
use tidegate_broker_client::layout::MAX_HOPS;
use tidegate_broker_client::message_id::{HEADER, HandlerKey};
use tidegate_cloudevents::{Event, http as binding};
use tidegate_telemetry::Span;
use tokio::time::{Instant, sleep, timeout};

use self::connector::Connector;
use crate::deliver::post::error_chain;
use crate::event::hops;
use crate::ops::trace;
use crate::settle::backoff::Backoff;
use crate::settle::outcome;

/// By which the ingress recognises a repeated publish.
const MESSAGE_ID: HeaderName = HeaderName::from_static(HEADER);
/// The limit of one try, response included; the ingress itself gives up before.
const TRY_LIMIT: Duration = Duration::from_secs(10);
const PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(5), factor: 2.0, jitter: 0.2 };
/// No `Retry-After` keeps a publish waiting longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Of a refusal's body this much is read, and this much of it is kept.
const BODY_LIMIT: usize = 8 * 1024;
const TEXT_LIMIT: usize = 512;
/// How long a connection is kept while nothing is published.
const IDLE: Duration = Duration::from_secs(30);
/// How often an ingress that owes answers is asked whether it is there, and how long it may take to say so. All
/// publishes share one connection, so one that leads nowhere would fail each of them.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Why an event is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ingress will never take this event.
    #[error("topic {topic} refuses it: {problem}")]
    Refused {
        /// The topic.
        topic: String,
        /// The ingress's words.
        problem: String,
    },
    /// It was not taken in the time there was: later it may.
    #[error("topic {topic} is not available: {problem}")]
    Unavailable {
        /// The topic.
        topic: String,
        /// What the last try met.
        problem: String,
    },
    /// It follows from an event that was passed on so often that its topics must form a circle.
    #[error(
        "not published to topic {topic}: the event has been passed on {MAX_HOPS} times, so its topics form a circle"
    )]
    TooManyHops {
        /// The topic.
        topic: String,
    },
}

/// The result of one try.
#[derive(Debug)]
enum TryResult {
    Stored,
    Refused(String),
    Again { problem: String, asked: Option<Duration> },
}

/// A way to publish to another topic.
#[derive(Debug)]
pub struct TopicPublisher {
    topic: String,
    uri: Uri,
    handler_uid: String,
    /// How often the handler was rewound: what it publishes because of an event that comes again is new.
    rewinds: u64,
    message_id_key: PathBuf,
    /// What that file held when it was last read.
    known_key: Mutex<Option<HandlerKey>>,
    client: Client<Connector, Full<Bytes>>,
}

impl TopicPublisher {
    /// To this topic, for the handler with this configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// The address is no URI.
    pub fn new(address: &contract::TopicAddress, config: &Sidecar) -> Result<Self, http::uri::InvalidUri> {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .build(Connector::new(&address.ca));
        Ok(Self {
            topic: address.topic.clone(),
            uri: address.url.parse()?,
            handler_uid: config.handler_uid.clone(),
            rewinds: config.relocation.rewinds,
            message_id_key: address.message_id_key.clone(),
            known_key: Mutex::default(),
            client,
        })
    }

    /// Publishes, in tries for at most this long. What this handler publishes again under the same name is stored once.
    ///
    /// # Errors
    /// It is not known to be stored.
    pub async fn publish(&self, event: &Event, name: &str, patience: Duration) -> Result<(), Error> {
        let end = Instant::now() + patience;
        let mut failures = 0;
        loop {
            let (problem, asked) = match self.attempt(event, name).await {
                TryResult::Stored => return Ok(()),
                TryResult::Refused(problem) => return Err(self.refused(problem)),
                TryResult::Again { problem, asked } => (problem, asked.unwrap_or_default().min(LONGEST_PAUSE)),
            };
            // The key may be another one by now.
            *self.known_key() = None;
            failures += 1;
            let pause = PAUSES.wait(failures, fastrand::f64()).max(asked);
            if Instant::now() + pause >= end {
                return Err(Error::Unavailable { topic: self.topic.clone(), problem });
            }
            tracing::debug!(topic = self.topic, problem, failures, "not published yet: trying on");
            sleep(pause).await;
        }
    }

    /// What is published because of another event, with one hop more than that has.
    ///
    /// # Errors
    /// [`Error::TooManyHops`].
    pub fn passed_on(&self, event: Event, because_of: &Event) -> Result<Event, Error> {
        let hops = hops::next(because_of).ok_or_else(|| Error::TooManyHops { topic: self.topic.clone() })?;
        hops::counted(event, hops).map_err(|invalid| self.refused(invalid.to_string()))
    }

    /// What is not sent at all, because the ingress would refuse it.
    pub fn refused(&self, problem: String) -> Error {
        Error::Refused { topic: self.topic.clone(), problem }
    }

    async fn attempt(&self, event: &Event, name: &str) -> TryResult {
        let token = match self.token(name).await {
            Ok(token) => token,
            Err(problem) => return TryResult::Again { problem, asked: None },
        };
        let request = match self.request(event, &token) {
            Ok(request) => request,
            Err(error) => return TryResult::Refused(error.to_string()),
        };
        let tried = async {
            match self.client.request(request).await {
                Ok(response) => parse_response(response).await,
                Err(error) => TryResult::Again { problem: error_chain(&error), asked: None },
            }
        };
        let late = |_| TryResult::Again { problem: format!("no answer within {TRY_LIMIT:?}"), asked: None };
        timeout(TRY_LIMIT, tried).await.unwrap_or_else(late)
    }

    async fn token(&self, name: &str) -> Result<String, String> {
        if let Some(key) = &*self.known_key() {
            return Ok(self.token_by(key, name));
        }
        let path = self.message_id_key.display();
        let text = tokio::fs::read_to_string(&self.message_id_key).await.map_err(|error| format!("{path}: {error}"))?;
        let key = HandlerKey::from_text(&text).map_err(|error| format!("{path}: {error}"))?;
        let token = self.token_by(&key, name);
        *self.known_key() = Some(key);
        Ok(token)
    }

    fn token_by(&self, key: &HandlerKey, name: &str) -> String {
        match self.rewinds {
            0 => key.token(&self.handler_uid, name),
            rewinds => key.token(&self.handler_uid, &format!("{name}-{rewinds}")),
        }
    }

    /// What it holds is replaced as a whole, so a panic elsewhere left nothing half done.
    fn known_key(&self) -> MutexGuard<'_, Option<HandlerKey>> {
        self.known_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, event: &Event, token: &str) -> http::Result<Request<Full<Bytes>>> {
        let (mut headers, body) = binding::encode_binary(event)?;
        trace::headers(&Span::current(), event, |name, value| {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        });
        headers.insert(MESSAGE_ID, HeaderValue::try_from(token)?);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

async fn parse_response(response: Response<Incoming>) -> TryResult {
    let status = response.status();
    if status == StatusCode::ACCEPTED {
        return TryResult::Stored;
    }
    let asked = response.headers().get_all(RETRY_AFTER).iter().map(HeaderValue::as_bytes);
    let asked = outcome::retry_after(asked, SystemTime::now());
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
    let problem = problem(status, &body.map(|body| body.to_bytes()).unwrap_or_default());
    if is_about_the_event(status) { TryResult::Refused(problem) } else { TryResult::Again { problem, asked } }
}

/// Whether the same event would be refused again. What is about us (401, 403) or about the topic (404, 429, 503)
/// may be mended.
fn is_about_the_event(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    )
}

/// The detail of the problem (RFC 9457), or what else was said.
fn problem(status: StatusCode, body: &[u8]) -> String {
    let detail = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|problem| problem.get("detail")?.as_str().map(str::to_owned));
    let mut text = format!("{status}: {}", detail.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()));
    text.truncate(text.floor_char_boundary(TEXT_LIMIT));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_event_is_final() {
        for (status, is_final) in [
            (400, true),
            (401, false),
            (403, false),
            (404, false),
            (408, false),
            (413, true),
            (415, true),
            (429, false),
            (431, true),
            (500, false),
            (503, false),
            (200, false),
            (301, false),
        ] {
            assert_eq!(is_about_the_event(StatusCode::from_u16(status).unwrap()), is_final, "{status}");
        }
    }

    #[test]
    fn the_problems_detail_is_what_is_told() {
        let body = br#"{"type":"urn:x","detail":"the event is too large"}"#;
        assert_eq!(problem(StatusCode::BAD_REQUEST, body), "400 Bad Request: the event is too large");
        assert_eq!(problem(StatusCode::BAD_REQUEST, b"no"), "400 Bad Request: no");
        assert!(problem(StatusCode::BAD_REQUEST, &[b'x'; 5000]).len() <= TEXT_LIMIT);
    }
}
