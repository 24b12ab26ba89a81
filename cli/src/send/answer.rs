//! What a topic answers, and how it is told (pure).

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tidegate_cloudevents::Event;

use crate::output::{self, Format};
use crate::terminal::text;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored under this number; whether it was before. `None`: the topic stores nothing, and has passed it on.
    Stored(Option<u64>, bool),
    /// It waits for its time.
    Waits,
    /// It will not be taken, for this reason.
    Refused(String),
}

/// What an HTTP answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The topic has it.
    Final(Answer),
    /// Later it may have it: after this many seconds, where it says so.
    Again(String, Option<u64>),
}

/// What this answer means.
pub fn meaning(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Meaning {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if status == StatusCode::ACCEPTED {
        if header("location").is_some() {
            return Meaning::Final(Answer::Waits);
        }
        let sequence = header("tidegate-sequence").and_then(|sequence| sequence.parse().ok());
        return Meaning::Final(Answer::Stored(sequence, header("tidegate-duplicate") == Some("true")));
    }
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    let why = format!("{}: {}", status.as_u16(), detail.map(text).unwrap_or_default());
    let is_passing = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY);
    if is_passing {
        Meaning::Again(why, header("retry-after").and_then(|seconds| seconds.parse().ok()))
    } else {
        Meaning::Final(Answer::Refused(why))
    }
}

/// An answer in the form that is asked for.
pub fn shown(event: &Event, answer: &Answer, format: Format) -> String {
    let id = event.id();
    if format == Format::Text {
        return match answer {
            Answer::Stored(Some(sequence), false) => format!("stored as {sequence}: {}", text(id)),
            Answer::Stored(Some(sequence), true) => format!("known already, as {sequence}: {}", text(id)),
            Answer::Stored(None, _) => format!("passed on: {}", text(id)),
            Answer::Waits => format!("waits for its time: {}", text(id)),
            Answer::Refused(why) => format!("refused: {}: {why}", text(id)),
        };
    }
    let mut document = json!({"id": id, "source": event.source(), "type": event.event_type()});
    match answer {
        Answer::Stored(Some(sequence), is_known) => {
            document["outcome"] = if *is_known { "known" } else { "stored" }.into();
            document["sequence"] = (*sequence).into();
        }
        Answer::Stored(None, _) => document["outcome"] = "passed-on".into(),
        Answer::Waits => document["outcome"] = "waits".into(),
        Answer::Refused(why) => {
            document["outcome"] = "refused".into();
            document["error"] = why.as_str().into();
        }
    }
    output::document(&document.to_string(), format)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Meaning {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        meaning(StatusCode::from_u16(status).unwrap(), &headers.collect(), body.as_bytes())
    }

    #[test]
    fn an_answer_says_what_became_of_the_event() {
        let stored = |sequence, known| Meaning::Final(Answer::Stored(sequence, known));
        assert_eq!(of(202, &[("tidegate-sequence", "7")], ""), stored(Some(7), false));
        assert_eq!(of(202, &[("tidegate-sequence", "7"), ("tidegate-duplicate", "true")], ""), stored(Some(7), true));
        assert_eq!(of(202, &[], ""), stored(None, false));
        assert_eq!(of(202, &[("location", "/delayed/a")], ""), Meaning::Final(Answer::Waits));
        let detail = r#"{"detail": "maxEventSize\u001b[2J"}"#;
        assert_eq!(of(413, &[], detail), Meaning::Final(Answer::Refused("413: maxEventSize [2J".into())));
        assert_eq!(of(503, &[("retry-after", "2")], "{}"), Meaning::Again("503: ".into(), Some(2)));
        assert!(matches!(of(429, &[], ""), Meaning::Again(_, None)));
    }

    #[test]
    fn each_form_says_the_same() {
        let event = Event::builder("a", "/s", "t").build().unwrap();
        let shown = |answer: Answer, format| shown(&event, &answer, format);
        assert_eq!(shown(Answer::Stored(Some(7), false), Format::Text), "stored as 7: a");
        assert_eq!(shown(Answer::Stored(Some(7), true), Format::Text), "known already, as 7: a");
        let json = shown(Answer::Stored(Some(7), true), Format::Json);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json, json!({"id": "a", "source": "/s", "type": "t", "outcome": "known", "sequence": 7}));
        let yaml = shown(Answer::Refused("no".into()), Format::Yaml);
        assert!(yaml.starts_with("---\n") && yaml.contains("outcome: refused"), "{yaml}");
    }
}
