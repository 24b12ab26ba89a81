//! Every error a publisher can get, as problem details (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tidegate_broker_client::contract::AUDIENCE_PREFIX;
use tidegate_broker_client::message_id::HEADER;
use tidegate_broker_client::{TopicId, later};
use tidegate_cloudevents::{Invalid, media_type};
use tidegate_publisher_auth::{NotAllowed, Publisher};

use crate::outcome::Failure;

/// What can be done with the events of a topic.
pub const METHODS: &str = "POST, OPTIONS";

/// An answer that is not 202.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The last part of the problem's type, `urn:tidegate:problem:<kind>`.
    pub kind: &'static str,
    /// What is wrong, the same for all of a kind.
    pub title: &'static str,
    /// What is wrong this time, and what to do.
    pub detail: Cow<'static, str>,
    /// A header that goes with the status.
    pub header: Option<(HeaderName, Cow<'static, str>)>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, kind, title, detail: detail.into(), header: None }
    }

    fn with(self, name: HeaderName, value: impl Into<Cow<'static, str>>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }

    fn retry_after(self, wait: Duration) -> Self {
        self.with(RETRY_AFTER, wait.as_secs().max(1).to_string())
    }

    /// 400
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-event", "Not a valid CloudEvent", detail)
    }

    /// 401: nothing proves who publishes, or what was shown does not, for this reason. It is the same whether there is
    /// such a topic or not, and names none.
    pub fn unauthenticated(reason: Option<String>) -> Self {
        let needed = format!(
            "send a token of a ServiceAccount for the audience {AUDIENCE_PREFIX}<namespace>/<topic> (Authorization: Bearer; \
             over MQTT as password), or connect with a client certificate, as spec.publishers of the EventTopic says; \
             Knative sources send tokens when Knative's feature authentication-oidc is enabled"
        );
        let (detail, challenge) = match reason {
            Some(reason) => (format!("{reason}; {needed}"), r#"Bearer realm="tidegate", error="invalid_token""#),
            None => (format!("publishing here needs credentials: {needed}"), r#"Bearer realm="tidegate""#),
        };
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated", detail)
            .with(WWW_AUTHENTICATE, challenge)
    }

    /// 403: it is known who publishes, and no rule of the topic is about them. It is the same where there is no such
    /// topic.
    pub fn not_allowed(publisher: &Publisher) -> Self {
        let detail = format!(
            "{publisher} may not publish to this topic: add it to spec.publishers of the EventTopic; a topic or a rule that \
             was just made counts within seconds, a minute at most"
        );
        Self::new(StatusCode::FORBIDDEN, "not-allowed", "Not allowed", detail)
    }

    /// 403: the publisher may publish to the topic, but not this event.
    pub fn event_not_allowed(reason: NotAllowed) -> Self {
        Self::new(StatusCode::FORBIDDEN, "event-not-allowed", "Event not allowed", reason.to_string())
    }

    /// 429
    pub fn too_many_attempts() -> Self {
        let detail = "too many tokens from this address were forged: repeat the request with a good one";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", "Too many attempts", detail)
            .retry_after(Duration::from_secs(1))
    }

    /// 403: about the publisher, and not about the event, which may be sent without it.
    pub fn message_id_not_allowed() -> Self {
        let detail = format!(
            "{HEADER} is for handlers of Tidegate, which prove it with a key of this topic: leave it out; an event that \
             is sent again unchanged is recognised"
        );
        Self::new(StatusCode::FORBIDDEN, "message-id-not-allowed", "Message id not allowed", detail)
    }

    /// 400
    pub fn named_batch() -> Self {
        let detail = format!("{HEADER} names one event: leave it out, or send a single event");
        Self::new(StatusCode::BAD_REQUEST, "invalid-message-id", "Not a message id", detail)
    }

    /// 400
    pub fn bad_webhook(header: &str, rule: &str) -> Self {
        let detail = format!("{header} must be {rule}: correct it");
        Self::new(StatusCode::BAD_REQUEST, "invalid-webhook-request", "Not a webhook handshake", detail)
    }

    /// 404, for a request that cannot name a topic. Where one could be, whoever may not publish to it is not told
    /// whether it is.
    pub fn no_topic() -> Self {
        let detail = "this names no topic of the broker: POST events to the address in the EventTopic's status, or to \
                      /<namespace>/<topic> of the broker";
        Self::new(StatusCode::NOT_FOUND, "no-topic", "No such topic", detail)
    }

    /// 403: whoever sent it would not know where its events went.
    pub fn two_topics(by_user: &TopicId) -> Self {
        let detail = format!(
            "the user name is that of topic {by_user}, and the host of the TLS handshake (SNI) that of another topic: use \
             another user name or none, or the host of status.address.mqttUrl of that topic"
        );
        Self::new(StatusCode::FORBIDDEN, "two-topics", "Two topics are named", detail)
    }

    /// 405
    pub fn method_not_allowed() -> Self {
        let detail = "events are sent with POST";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Wrong method", detail).with(ALLOW, METHODS)
    }

    /// 408
    pub fn request_timeout() -> Self {
        let detail = "the body came too slowly: send it at once";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request too slow", detail)
    }

    /// 413, by the size of the body.
    pub fn request_too_large(limit: usize) -> Self {
        let detail = format!("the body is larger than {limit} bytes: send fewer events in one request");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request-too-large", "Request too large", detail)
    }

    /// 413, by the size of an event.
    pub fn event_too_large(id: &str, size: usize, limit: usize) -> Self {
        let id: String = id.chars().take(64).collect();
        let detail = format!(
            "event {id:?} has {size} bytes (attributes and data), and {limit} are allowed (maxEventSize of the topic): \
             store the data elsewhere and send a reference"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "event-too-large", "Event too large", detail)
    }

    /// 400
    pub fn invalid_delivery_time(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-delivery-time", "Not a time for this event", detail)
    }

    /// 422
    pub fn no_delayed_events() -> Self {
        let detail = format!(
            "this topic takes no delayed events: set spec.delayedEvents of the EventTopic (routing: Queued), or leave {} out",
            later::ATTRIBUTE
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no-delayed-events", "No delayed events", detail)
    }

    /// 413
    pub fn delayed_event_too_large(size: u64, limit: u64) -> Self {
        let detail = format!(
            "the event takes {size} bytes with its headers, and {limit} are allowed for one that waits for its time: store \
             the data elsewhere and send a reference"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "event-too-large", "Event too large", detail)
    }

    /// 429
    pub fn delayed_events_full() -> Self {
        let detail = "too many events wait for their time: repeat this one later; there is room when some of them are \
                      published or cancelled, or when spec.retention.maxSize of the EventTopic leaves more of it";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "delayed-events-full", "Too many delayed events", detail)
            .retry_after(Duration::from_secs(5))
    }

    /// 404
    pub fn not_delayed() -> Self {
        let detail = "no event waits under this name: it is published, was cancelled, or never was there";
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such event", detail)
    }

    /// 405
    pub fn only_delete() -> Self {
        let detail = "an event that waits for its time can only be cancelled, with DELETE";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Wrong method", detail).with(ALLOW, "DELETE")
    }

    /// 503
    pub fn not_cancelled() -> Self {
        let detail = "the broker did not say whether the event is cancelled: repeat the request";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "broker-unavailable", "Broker not available", detail)
            .retry_after(Duration::from_secs(1))
    }

    /// 503, because of too many connections at a time.
    pub fn too_many_connections() -> Self {
        let detail = "too many connections are open, in all or from this address: send several requests over each, or \
                      raise spec.ingress.maxConnections of the EventBroker";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too busy", detail).retry_after(Duration::from_secs(1))
    }

    /// 503, because of too many requests at a time.
    pub fn overloaded() -> Self {
        let detail = "too many requests are in progress, in all, for this topic or from this client, or they take too \
                      much memory: repeat this one";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too busy", detail).retry_after(Duration::from_secs(1))
    }

    /// 503, because this ingress ends.
    pub fn leaving() -> Self {
        let detail = "this ingress is about to end: repeat the request, and another one takes it";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too busy", detail).retry_after(Duration::from_secs(1))
    }

    /// The same of a batch, of which `stored` events were stored.
    pub fn in_batch(self, stored: usize, all: usize) -> Self {
        if all == 1 {
            return self;
        }
        let detail = format!(
            "{stored} of {all} events were stored, and of another one: {}. Repeat the same request: what is stored already is \
             recognised",
            self.detail
        );
        Self { detail: detail.into(), ..self }
    }

    /// Events that were not stored: `stored` of `all` were.
    pub fn not_stored(failure: Failure, stored: usize, all: usize) -> Self {
        let detail = if all == 1 {
            format!("the event was not stored: {failure}")
        } else {
            format!(
                "{stored} of {all} events were stored: {failure}. Repeat the same request: what is stored already \
                 is recognised"
            )
        };
        let (status, kind, title) = match failure {
            Failure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "event-too-large", "Event too large"),
            Failure::Full => (StatusCode::TOO_MANY_REQUESTS, "topic-full", "Topic full"),
            Failure::BrokerFull => (StatusCode::TOO_MANY_REQUESTS, "broker-full", "Broker full"),
            Failure::Refused | Failure::Pending | Failure::Timeout | Failure::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "broker-unavailable", "Broker not available")
            }
        };
        let problem = Self::new(status, kind, title, detail);
        match failure.retry_after() {
            Some(wait) => problem.retry_after(wait),
            None => problem,
        }
    }
}

impl Problem {
    /// The answer to a request.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let body = serde_json::json!({
            "type": format!("urn:tidegate:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(&*value)
        {
            headers.insert(name, value);
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let detail = invalid.to_string();
        match invalid {
            Invalid::Malformed(_) => Self::invalid(detail),
            Invalid::TooMany { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "batch-too-large", "Too many events", detail)
            }
            // RFC 9110, sections 12.5.3 and 15.5.16.
            Invalid::UnsupportedEncoding(_) => {
                let kind = "unsupported-encoding";
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, kind, "Encoding not supported", detail)
                    .with(ACCEPT_ENCODING, "identity")
            }
            Invalid::UnsupportedMediaType(_) => {
                let kind = "unsupported-media-type";
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, kind, "Not a CloudEvent", detail)
                    .with(ACCEPT, format!("{}, {}", media_type::STRUCTURED, media_type::BATCH))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(problem: Problem, name: HeaderName) -> String {
        problem.into_response().headers()[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn statuses_carry_their_headers() {
        assert_eq!(header(Problem::method_not_allowed(), ALLOW), METHODS);
        let encoded = Problem::from(Invalid::UnsupportedEncoding("x".into()));
        assert_eq!(header(encoded, ACCEPT_ENCODING), "identity");
        assert_eq!(header(Problem::overloaded(), RETRY_AFTER), "1");
        assert_eq!(header(Problem::not_stored(Failure::Full, 0, 1), RETRY_AFTER), "5");
        assert_eq!(header(Problem::not_stored(Failure::BrokerFull, 0, 1), RETRY_AFTER), "5");
        assert_eq!(header(Problem::not_stored(Failure::Timeout, 0, 1), RETRY_AFTER), "1");
        let unsupported = Problem::from(Invalid::UnsupportedMediaType("x".into()));
        assert!(header(unsupported, ACCEPT).contains("application/cloudevents+json"));
        assert_eq!(header(Problem::no_topic(), CONTENT_TYPE), "application/problem+json");
        assert_eq!(header(Problem::unauthenticated(None), WWW_AUTHENTICATE), r#"Bearer realm="tidegate""#);
        let bad = header(Problem::unauthenticated(Some("no".to_owned())), WWW_AUTHENTICATE);
        assert_eq!(bad, r#"Bearer realm="tidegate", error="invalid_token""#);
    }

    #[test]
    fn a_batch_says_how_much_of_it_is_stored() {
        let problem = Problem::not_stored(Failure::Full, 7, 10);
        assert_eq!(problem.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(problem.detail.starts_with("7 of 10 events were stored: the topic is full"), "{}", problem.detail);
    }
}
