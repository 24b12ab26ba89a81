//! Lines of what happens, for a person (pure).

use serde_json::Value;

use super::process::Line;
use super::watch::{Attempt, Happened, What};
use crate::terminal::{line, text};

/// The width of the first column where names are short.
const NAME_WIDTH: usize = 12;

/// One line of an event.
pub fn happened(happened: &Happened) -> String {
    let Happened { at, topic, id, event_type, what } = happened;
    let time = time(*at);
    match what {
        What::Published(None) => {
            format!("{time} {:NAME_WIDTH$} {} published, type {}", text(topic), text(id), text(event_type))
        }
        What::Published(Some(why)) => {
            format!("{time} {:NAME_WIDTH$} {} not published: {}", text(topic), text(id), text(why))
        }
        What::Attempt(attempt) => {
            format!("{time} {:NAME_WIDTH$} {} {}", text(&attempt.handler), text(id), told(attempt))
        }
    }
}

fn told(Attempt { sequence, number, status, error, outcome, millis, .. }: &Attempt) -> String {
    let answer = match status {
        Some(status) => status.to_string(),
        None if error.is_empty() => "no answer".to_owned(),
        None => text(error),
    };
    let of = if *sequence > 0 { format!("#{sequence} ") } else { String::new() };
    let mark = match outcome.as_str() {
        "dead-lettered" => "DEAD LETTER",
        "" => "in doubt",
        outcome => outcome,
    };
    format!("{of}attempt {number}: {answer} after {millis} ms: {}", text(mark))
}

/// The time of day in UTC.
fn time(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map(|time| time.strftime("%H:%M:%S%.3f").to_string()).unwrap_or_default()
}

/// A line of the user's own program.
pub fn of_program(Line { program, text, .. }: &Line) -> String {
    format!("{} | {}", program, line(text))
}

/// A line of one of our programs, if it is a warning: they write one JSON document per line.
pub fn warning(Line { program, text: written, .. }: &Line) -> Option<String> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(written) else {
        // A panic, or what is said before there are logs.
        let written = written.trim();
        return (!written.is_empty()).then(|| format!("{program}: {}", line(written)));
    };
    let level = fields.remove("level")?;
    let level = level.as_str().filter(|level| matches!(*level, "WARN" | "ERROR"))?;
    let message = fields.remove("message").and_then(|message| message.as_str().map(text)).unwrap_or_default();
    let unsaid = ["timestamp", "target", "span", "spans", "trace_id", "span_id"];
    let more = fields.iter().filter(|(name, _)| !unsaid.contains(&name.as_str())).map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!(", {}: {}", text(name), text(&value))
    });
    Some(format!("{program}: {}: {message}{}", level.to_lowercase(), more.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_a_line_with_its_answer_and_outcome() {
        let attempt = Attempt {
            handler: "billing".into(),
            sequence: 7,
            number: 3,
            status: Some(503),
            error: "503".into(),
            outcome: "dead-lettered".into(),
            millis: 4,
        };
        let of = |what| Happened {
            at: 3_600_001,
            topic: "orders".into(),
            id: "a\u{1b}[2J".into(),
            event_type: "t".into(),
            what,
        };
        assert_eq!(
            happened(&of(What::Attempt(attempt.clone()))),
            "01:00:00.001 billing      a [2J #7 attempt 3: 503 after 4 ms: DEAD LETTER"
        );
        let refused =
            Attempt { status: None, error: "connection refused".into(), outcome: "retried".into(), ..attempt };
        assert!(happened(&of(What::Attempt(refused))).ends_with("connection refused after 4 ms: retried"));
        assert_eq!(happened(&of(What::Published(None))), "01:00:00.001 orders       a [2J published, type t");
        assert!(happened(&of(What::Published(Some("full".into())))).ends_with("not published: full"));
    }

    #[test]
    fn of_our_programs_warnings_are_shown_and_what_is_no_log() {
        let shown = |text: &str| warning(&Line { program: "billing".into(), text: text.into(), is_users: false });
        let log = r#"{"timestamp":"t","level":"WARN","message":"nothing is pulled","port":8080,"why":"a\u001b[2J","target":"x"}"#;
        assert_eq!(shown(log).unwrap(), "billing: warn: nothing is pulled, port: 8080, why: a [2J");
        assert_eq!(shown(r#"{"level":"INFO","message":"pulling events"}"#), None);
        assert_eq!(shown("thread\u{7} panicked\n").unwrap(), "billing: thread  panicked");
        assert_eq!(shown(""), None);
    }
}
