//! How pages show facts. The template escapes all texts; what is invisible in them is taken out.

use std::fmt::Display;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use maud::{Markup, html};
use tidegate_crds::conditions::HasConditions;

use crate::doctor::finding::{Finding, State};
use crate::terminal::{line, text};

/// Names and values; what is empty is left out.
pub fn facts(facts: Vec<(&str, Markup)>) -> Markup {
    html! {
        dl {
            @for (name, value) in facts.iter().filter(|(_, value)| !value.0.is_empty()) {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// A text of somebody else in a line.
pub fn plain(words: &str) -> Markup {
    html! { (text(words)) }
}

/// A number, or nothing.
pub fn count<T: Display>(number: Option<T>) -> Markup {
    html! { @if let Some(number) = number { (number.to_string()) } }
}

/// A number of bytes, as people say it.
pub fn bytes(bytes: i64) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits of it are shown
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

/// Whether a resource is ready, in a word, and its reason.
pub fn ready(status: Option<&impl HasConditions>) -> Markup {
    let Some(ready) = status.and_then(HasConditions::ready) else {
        return html! { span.state.unknown title="the operator has not looked at it" { "unknown" } };
    };
    let Condition { status, reason, message, .. } = ready;
    let (class, word) = match status.as_str() {
        "True" => ("ok", "ready"),
        "False" => ("red", "not ready"),
        _ => ("unknown", "unknown"),
    };
    html! {
        span.state.(class) title=(line(message)) { (word) }
        @if class != "ok" { " " (text(reason)) }
    }
}

/// How full something is, of which the operator says `73%`.
pub fn fill(fill: Option<&str>) -> Markup {
    let Some(fill) = fill else { return html! {} };
    let percent = fill.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    html! {
        @if let Some(percent) = percent { meter min="0" max="100" high="80" value=(percent) {} " " }
        (text(fill))
    }
}

/// What doctor finds, in order, in its words.
pub fn findings(findings: &[Finding]) -> Markup {
    html! {
        table {
            caption { "Checks, from broker to handler" }
            thead { tr { th scope="col" { "State" } th scope="col" { "Link" } th scope="col" { "Object" } th scope="col" { "Why, and what to do" } } }
            tbody {
                @for Finding { link, state, object, reason, message, .. } in findings {
                    tr {
                        td { (state_of(*state)) }
                        th scope="row" { (link) }
                        td { (object) }
                        td.words { @if message.is_empty() { (reason) } @else { (message) } }
                    }
                }
            }
        }
    }
}

fn state_of(state: State) -> Markup {
    let word = match state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Red => "red",
        State::Unknown => "unknown",
    };
    html! { span.state.(word) { (word) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_write_is_text() {
        let hostile = "<b>\u{202e}\u{1b}[2J\" onload=\"x";
        let finding = Finding::new("pods", State::Red, hostile, hostile, hostile);
        let shown = html! { (findings(&[finding])) (plain(hostile)) (fill(Some(hostile))) }.0;
        assert!(!shown.contains("<b>") && !shown.contains("\" onload"), "{shown}");
        assert!(!shown.contains(['\u{202e}', '\u{1b}']), "{shown}");
        assert!(fill(Some("73%")).0.contains("value=\"73\""));
    }

    #[test]
    fn bytes_have_the_unit_that_people_use() {
        for (number, shown) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (15 << 30, "15.0 GiB")] {
            assert_eq!(bytes(number), shown);
        }
    }
}
