//! The reply: a CloudEvent in the handler's 2xx response, published to another topic before its event is
//! acknowledged.
//!
//! It is deduplicated by handler and source event: whatever happens between the handler's answer and the
//! acknowledgement, and however often the event is delivered then, one reply is stored (within the topic's window).

use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tidegate_broker_client::message_id;
use tidegate_cloudevents::{Event, Mode, http as binding, media_type};

use crate::deliver::answer::{Content, TooLong};
use crate::settle::topic_publisher::{Error, TopicPublisher};

/// The largest response that is read for a reply, in bytes of its body.
pub const LIMIT: usize = 1 << 20;
/// How long a reply is kept and tried while its topic is not available. The handler has done its work: to call it
/// again is the last resort.
pub const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// What a response holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No CloudEvent.
    None,
    /// This one.
    Event(Box<Event>),
    /// Something that should be one and is not.
    Invalid(String),
}

/// Finds the reply in a response.
pub fn find(content: Content) -> Reply {
    let (headers, body) = match content {
        Content::Kept { headers, body, .. } if is_event(&headers) => (headers, body),
        // Whatever else it is, it does not say that it is an event.
        Content::Kept { .. } | Content::Ignored => return Reply::None,
    };
    let body = match body {
        Ok(body) => body,
        Err(TooLong) => return Reply::Invalid(format!("the body is longer than {LIMIT} bytes")),
    };
    match binding::decode(&headers, body) {
        Ok((Mode::Batched, _)) => Reply::Invalid("the response is a batch of events: send one".to_owned()),
        Ok((_, mut events)) => events.pop().map_or(Reply::None, |event| Reply::Event(Box::new(event))),
        Err(invalid) => Reply::Invalid(invalid.to_string()),
    }
}

/// Whether a response says of itself that it holds an event: by its type, or by `ce-specversion`.
fn is_event(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type::essence(content_type).to_ascii_lowercase().starts_with("application/cloudevents")
        || headers.contains_key("ce-specversion")
}

/// Publishes the reply to an event, if it has one.
///
/// # Errors
/// It is not known to be stored; [`Error::Refused`] and [`Error::TooManyHops`]: it never will be.
pub async fn publish(
    publisher: &TopicPublisher,
    event: &Event,
    mut content: Content,
    patience: Duration,
) -> Result<(), Error> {
    let _share = content.take_share();
    match find(content) {
        Reply::None => Ok(()),
        Reply::Event(reply) => {
            let reply = publisher.passed_on(*reply, event)?;
            publisher.publish(&reply, &message_id::reply_name(event.source(), event.id()), patience).await
        }
        Reply::Invalid(problem) => Err(publisher.refused(problem)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::ops::budget::ByteBudget;

    fn kept(headers: HeaderMap, body: Result<Bytes, TooLong>) -> Content {
        Content::Kept { headers, body, share: ByteBudget::default().share(0) }
    }

    fn response(headers: &[(&'static str, &str)], body: &'static str) -> Content {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        kept(headers, Ok(Bytes::from_static(body.as_bytes())))
    }

    fn without_body() -> Content {
        let Content::Kept { headers, .. } = response(&CE, "") else { panic!("kept") };
        kept(headers, Err(TooLong))
    }

    const CE: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "r"), ("ce-source", "/b"), ("ce-type", "billed")];

    #[test]
    fn binary_and_structured() {
        let structured = response(
            &[("content-type", "application/cloudevents+json; charset=utf-8")],
            r#"{"specversion":"1.0","id":"r","source":"/b","type":"billed","data":1}"#,
        );
        for content in [response(&CE, "x"), structured] {
            let Reply::Event(event) = find(content) else { panic!("an event") };
            assert_eq!((event.id(), event.source(), event.event_type()), ("r", "/b", "billed"));
        }
    }

    #[test]
    fn what_does_not_say_that_it_is_an_event_is_none() {
        for content in [
            Content::Ignored,
            response(&[], ""),
            response(&[("content-type", "application/json")], "{}"),
            response(&[("ce-id", "echoed"), ("ce-type", "echoed")], ""),
        ] {
            assert_eq!(find(content), Reply::None);
        }
    }

    #[test]
    fn what_says_so_and_is_not_is_invalid() {
        for (content, expected) in [
            (response(&CE[..3], ""), "attribute \"type\" is missing"),
            (response(&[("content-type", "application/cloudevents+json")], "{"), "not a CloudEvent in JSON"),
            (response(&[("content-type", "application/cloudevents-batch+json")], "[]"), "a batch of events"),
            (response(&[("content-type", "application/cloudevents+avro")], ""), "not supported"),
            (without_body(), "longer than 1048576 bytes"),
        ] {
            let Reply::Invalid(problem) = find(content) else { panic!("{expected}") };
            assert!(problem.contains(expected), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn any_response_is_something(body in ".{0,60}", kind in 0usize..3) {
            let types = ["application/cloudevents+json", "application/cloudevents-batch+json", "text/plain"];
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(types[kind]));
            let _ = find(kept(headers, Ok(body.into())));
        }
    }
}
