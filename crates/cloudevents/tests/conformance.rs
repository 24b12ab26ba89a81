//! The scenarios of `conformance/*.feature`, in the style of those of cloudevents/conformance: what a request says is
//! what is read, and it stays the same in every mode.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_cloudevents::{Event, Mode, http as binding, media_type};

/// One sentence of a scenario, with the text or the table below it.
struct Step<'a> {
    sentence: &'a str,
    text: String,
    table: BTreeMap<String, String>,
}

/// The scenarios of a file: their names and steps.
fn scenarios(feature: &str) -> Vec<(&str, Vec<Step<'_>>)> {
    let mut scenarios: Vec<(&str, Vec<Step<'_>>)> = Vec::new();
    let mut quoted: Option<Vec<&str>> = None;
    for line in feature.lines() {
        let trimmed = line.trim();
        if let Some(lines) = &mut quoted {
            if trimmed == "\"\"\"" {
                scenarios.last_mut().unwrap().1.last_mut().unwrap().text = lines.join("\n");
                quoted = None;
            } else {
                lines.push(line.strip_prefix("      ").unwrap_or(trimmed));
            }
        } else if let Some(name) = trimmed.strip_prefix("Scenario: ") {
            scenarios.push((name, Vec::new()));
        } else if trimmed == "\"\"\"" {
            quoted = Some(Vec::new());
        } else if let Some(row) = trimmed.strip_prefix('|') {
            let (name, value) = row.trim_end_matches('|').split_once('|').unwrap();
            let step = scenarios.last_mut().unwrap().1.last_mut().unwrap();
            step.table.insert(name.trim().to_owned(), value.trim().to_owned());
        } else if let Some(sentence) = ["Given ", "Then ", "And "].iter().find_map(|word| trimmed.strip_prefix(word)) {
            let step = Step { sentence, text: String::new(), table: BTreeMap::new() };
            scenarios.last_mut().unwrap().1.push(step);
        } else {
            let known = trimmed.is_empty() || trimmed.starts_with('#') || trimmed.starts_with("Feature: ");
            assert!(known, "{trimmed}");
        }
    }
    scenarios
}

/// The headers and the body of a request as it is written.
fn request(text: &str) -> (HeaderMap, Bytes) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let mut headers = HeaderMap::new();
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
    }
    (headers, Bytes::from(body.to_owned()))
}

fn attributes(event: &Event) -> BTreeMap<String, String> {
    let content_type = event.data_content_type().map(|value| ("datacontenttype", value));
    event.attributes().chain(content_type).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The event is the same in all modes.
fn check_modes(event: &Event) {
    let (headers, body) = binding::encode_binary(event).unwrap();
    assert_eq!(binding::decode(&headers, body), Ok((Mode::Binary, vec![event.clone()])));
    let typed = |of: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(of))]);
    let structured = binding::encode_structured(event).unwrap();
    let read = binding::decode(&typed(media_type::STRUCTURED), structured);
    assert_eq!(read, Ok((Mode::Structured, vec![event.clone()])));
    let batch = [event.clone(), event.clone()];
    let read = binding::decode(&typed(media_type::BATCH), binding::encode_batch(&batch).unwrap());
    assert_eq!(read, Ok((Mode::Batched, batch.to_vec())));
}

fn check(feature: &str) {
    for (name, steps) in scenarios(feature) {
        let (given, then) = steps.split_first().unwrap();
        assert_eq!(given.sentence, "an HTTP request", "{name}");
        assert!(!then.is_empty(), "{name} says nothing");
        let (headers, body) = request(&given.text);
        let read = binding::decode(&headers, body);
        for step in then {
            if let Some(reason) = step.sentence.strip_prefix("it is refused with ") {
                let refusal = read.as_ref().unwrap_err().to_string();
                assert!(refusal.contains(reason), "{name}: {refusal}");
                continue;
            }
            let (mode, events) = read.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
            let [event] = &events[..] else { panic!("{name}: {events:?}") };
            match step.sentence {
                "the attributes are" => assert_eq!(attributes(event), step.table, "{name}"),
                "the data is" => assert_eq!(event.data().unwrap(), &step.text, "{name}"),
                "there is no data" => assert_eq!(event.data(), None, "{name}"),
                other => assert_eq!(other.strip_prefix("the mode is "), Some(mode.name()), "{name}"),
            }
            check_modes(event);
        }
    }
}

#[test]
fn http_binary() {
    check(include_str!("conformance/http_binary.feature"));
}

#[test]
fn http_structured() {
    check(include_str!("conformance/http_structured.feature"));
}
