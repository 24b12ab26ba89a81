//! What the answer to a batch means for each of its events. Pure.
//!
//! `{"failed": [{"source": "…", "id": "…", "status": 503, "error": "…"}]}` in a 2xx names those that failed. A body
//! that tries to say so and cannot be understood (no list, an event that was not sent, a status that is no failure)
//! counts as a 500 for all: to deliver twice what was handled is better than to lose what was not.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tidegate_cloudevents::{Event, media_type};

use crate::deliver::answer::{Answered, Content};
use crate::deliver::post::Attempt;
use crate::settle::outcome::Answer;

/// The longest body of an answer that is read.
pub const LIMIT: usize = 1 << 20;
/// Of an event's error this much is kept, in bytes.
const ERROR_LIMIT: usize = 512;

/// An event that failed.
#[derive(Debug, Deserialize)]
struct Failed {
    source: String,
    id: String,
    #[serde(default = "internal_error")]
    status: u16,
    #[serde(default)]
    error: String,
}

fn internal_error() -> u16 {
    500
}

/// The answer that each event got, in their order.
pub fn of_each(events: &[Event], attempt: Attempt) -> Vec<Attempt> {
    let Attempt::Answered(Answered { answer, content }) = attempt else {
        let Attempt::Unreachable(why) = attempt else { return Vec::new() };
        return events.iter().map(|_| Attempt::Unreachable(why.clone())).collect();
    };
    let (code, retry_after) = match &answer {
        Answer::Status { code, retry_after, .. } if code.is_success() => (*code, *retry_after),
        _ => return events.iter().map(|_| answered(answer.clone())).collect(),
    };
    match failures(events, content) {
        Ok(failures) => {
            let of = |failure: Option<(StatusCode, String)>| failure.unwrap_or((code, String::new()));
            let answers = failures.into_iter().map(of);
            answers.map(|(code, error)| answered(status_of(code, retry_after, error))).collect()
        }
        Err(problem) => {
            let error = format!("the answer to the batch is not understood: {problem}");
            let all = status_of(StatusCode::INTERNAL_SERVER_ERROR, retry_after, error);
            events.iter().map(|_| answered(all.clone())).collect()
        }
    }
}

fn answered(answer: Answer) -> Attempt {
    Attempt::Answered(Answered::without_content(answer))
}

fn status_of(code: StatusCode, retry_after: Option<Duration>, text: String) -> Answer {
    Answer::Status { code, retry_after, text }
}

/// Status and error of each event that failed.
fn failures(events: &[Event], content: Content) -> Result<Vec<Option<(StatusCode, String)>>, String> {
    let mut failures = vec![None; events.len()];
    let Some(listed) = listed(content)? else { return Ok(failures) };
    let listed = Vec::<Failed>::deserialize(listed).map_err(|error| format!("failed: {error}"))?;
    if listed.len() > events.len() {
        return Err("failed: it names more events than were in the batch".to_owned());
    }
    for Failed { source, id, status, mut error } in listed {
        let code = StatusCode::from_u16(status).ok().filter(|code| !code.is_success());
        let code = code.ok_or_else(|| format!("failed: {status} is not the status of a failure"))?;
        error.truncate(error.floor_char_boundary(ERROR_LIMIT));
        let is_named = |event: &Event| event.source() == source && event.id() == id;
        if !events.iter().any(is_named) {
            return Err("failed: it names an event that was not in the batch".to_owned());
        }
        // More than one, if the same event was stored twice.
        for (_, failure) in events.iter().zip(&mut failures).filter(|(event, _)| is_named(event)) {
            *failure = Some((code, error.clone()));
        }
    }
    Ok(failures)
}

/// The member `failed` of a body that is a JSON object; `None` if the body says nothing about events.
fn listed(content: Content) -> Result<Option<Value>, String> {
    let (headers, body) = match content {
        Content::Ignored => return Ok(None),
        Content::Kept { headers, body, .. } => (headers, body),
    };
    match body.map_err(|too_long| too_long.to_string()).and_then(|body| object(&body)) {
        Ok(found) => Ok(found),
        // What is no JSON is an error only where it is said to be.
        Err(problem) if says_json(&headers) => Err(problem),
        Err(_) => Ok(None),
    }
}

fn object(body: &Bytes) -> Result<Option<Value>, String> {
    if body.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(match value {
        Value::Object(mut members) => members.remove("failed"),
        _ => None,
    })
}

fn says_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(media_type::is_json)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::deliver::answer::TooLong;
    use crate::ops::budget::ByteBudget;

    fn events() -> Vec<Event> {
        [("/a", "1"), ("/a", "2"), ("/b", "1")]
            .into_iter()
            .map(|(source, id)| Event::builder(id, source, "t").build().unwrap())
            .collect()
    }

    fn content(content_type: &str, body: Result<&str, TooLong>) -> Content {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        let body = body.map(|body| Bytes::copy_from_slice(body.as_bytes()));
        Content::Kept { headers, body, share: ByteBudget::default().share(0) }
    }

    fn codes(code: u16, content: Content) -> Vec<u16> {
        let answer = status_of(StatusCode::from_u16(code).unwrap(), None, String::new());
        let attempts = of_each(&events(), Attempt::Answered(Answered { answer, content }));
        attempts
            .into_iter()
            .map(|attempt| match attempt {
                Attempt::Answered(Answered { answer: Answer::Status { code, .. }, .. }) => code.as_u16(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    const JSON: &str = "application/json";

    #[test]
    fn the_named_ones_failed_and_the_others_did_not() {
        for (body, expected) in [
            (r#"{"failed":[{"source":"/a","id":"2","status":503,"error":"later"}]}"#, [200, 503, 200]),
            (r#"{"failed":[{"source":"/b","id":"1"}]}"#, [200, 200, 500]),
            (
                r#"{"failed":[{"source":"/a","id":"1","status":422},{"source":"/a","id":"2","status":301}]}"#,
                [422, 301, 200],
            ),
            (r#"{"failed":[]}"#, [200; 3]),
            (r#"{"ok":true}"#, [200; 3]),
            ("[]", [200; 3]),
            ("", [200; 3]),
        ] {
            assert_eq!(codes(200, content(JSON, Ok(body))), expected, "{body}");
            assert_eq!(codes(200, content("text/plain", Ok(body))), expected, "{body}, whatever it is said to be");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_a_failure_of_all() {
        for body in [
            r#"{"failed":true}"#,
            r#"{"failed":null}"#,
            r#"{"failed":[{"id":"1"}]}"#,
            r#"{"failed":[{"source":"/c","id":"1"}]}"#,
            r#"{"failed":[{"source":"/a","id":"1","status":200}]}"#,
            r#"{"failed":[{"source":"/a","id":"1","status":7}]}"#,
            r#"{"failed":[{"source":"/a","id":"1","status":"503"}]}"#,
            r#"{"failed":["#,
        ] {
            assert_eq!(codes(200, content(JSON, Ok(body))), [500; 3], "{body}");
        }
        assert_eq!(codes(200, content(JSON, Err(TooLong))), [500; 3]);
        assert_eq!(codes(200, content("text/html", Err(TooLong))), [200; 3]);
        assert_eq!(codes(200, content("text/plain", Ok("done"))), [200; 3]);
    }

    #[test]
    fn any_other_answer_is_everyones() {
        let body = r#"{"failed":[{"source":"/a","id":"1"}]}"#;
        for code in [503, 400, 302] {
            assert_eq!(codes(code, content(JSON, Ok(body))), [code; 3]);
        }
        let all = of_each(&events(), Attempt::Unreachable("refused".into()));
        assert!(all.len() == 3 && all.iter().all(|attempt| matches!(attempt, Attempt::Unreachable(_))));
    }

    proptest! {
        #[test]
        fn everyone_gets_an_answer(body in "(\\{\"failed\":)?[\\[\\]{}\":,a-z0-9]{0,40}", code in 200u16..600) {
            prop_assert_eq!(codes(code, content(JSON, Ok(&body))).len(), 3);
        }
    }
}
