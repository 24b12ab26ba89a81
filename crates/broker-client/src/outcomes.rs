//! What a sidecar reports of the ends of deliveries. A report comes from a pod of the user's, so its reader bounds it
//! ([`Outcomes::sanitized`]).

use std::time::Duration;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, PrependedConcatenationMark};
use icu_properties::{CodePointMapData, CodePointSetData};
use serde::{Deserialize, Serialize};
use tidegate_cloudevents::is_allowed;

/// The time over which [`Outcomes`] counts.
pub const OUTCOME_WINDOW: Duration = Duration::from_secs(300);
/// Up to this number, different events that fail one after the other are distinguished.
pub const MAX_FAILING_EVENTS: u32 = 20;
/// The longest text of a [`Failure`], in bytes.
pub const MAX_TEXT: usize = 256;

/// How the deliveries of a pod ended lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcomes {
    /// Events that were handled, within [`OUTCOME_WINDOW`].
    pub handled: u64,
    /// Events that were refused for good, within the window.
    pub refused: u64,
    /// Attempts that failed, within the window.
    pub failed: u64,
    /// Events that became dead letters, since the sidecar started.
    pub dead_lettered: u64,
    /// Set while deliveries fail as a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// The last delivery that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
}

/// Deliveries fail as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Different events that failed since one was handled, at most [`MAX_FAILING_EVENTS`].
    pub events: u32,
    /// Whether all of them were refused for good.
    pub refused: bool,
}

/// A delivery that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failure {
    /// When it failed, RFC 3339.
    pub time: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// The status of the response, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    pub error: String,
    /// Where the event was posted to.
    pub url: String,
}

impl Outcomes {
    /// The same with every text as one line of at most [`MAX_TEXT`] bytes, and every number within its range.
    #[must_use]
    pub fn sanitized(self) -> Self {
        let failing = self.failing.map(|failing| Failing { events: failing.events.min(MAX_FAILING_EVENTS), ..failing });
        Self { failing, last_failure: self.last_failure.map(Failure::sanitized), ..self }
    }
}

impl Failure {
    /// The same within its bounds.
    #[must_use]
    pub fn sanitized(self) -> Self {
        let line = |text: &str| single_line(text, MAX_TEXT);
        Self {
            time: line(&self.time),
            event_id: line(&self.event_id),
            event_type: line(&self.event_type),
            status: self.status.filter(|status| (100..1000).contains(status)),
            error: line(&self.error),
            url: line(&self.url),
        }
    }
}

/// Text as one line of at most `limit` bytes: a character that is not visible, or that changes how its neighbours are
/// shown, becomes a space.
pub fn single_line(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit));
    for c in text.trim().chars() {
        let c = if is_allowed(c) && !is_format(c) { c } else { ' ' };
        if line.len() + c.len_utf8() > limit {
            break;
        }
        line.push(c);
    }
    line
}

/// Whether a terminal or an editor reorders or hides text because of this character, or shows nothing of it: format characters,
/// separators of lines, and what Unicode lets a program ignore that does not know it (fillers, tags, variation selectors).
/// Format characters that are signs, as those before Arabic numbers, are none.
fn is_format(c: char) -> bool {
    use GeneralCategory::{Format, LineSeparator, ParagraphSeparator};
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    matches!(category, LineSeparator | ParagraphSeparator)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || category == Format && !CodePointSetData::new::<PrependedConcatenationMark>().contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_older_report_has_no_outcomes_and_a_newer_one_may_have_more() {
        assert_eq!(serde_json::from_str::<Outcomes>("{}").unwrap(), Outcomes::default());
        let newer = r#"{"handled":1,"new":[1],"lastFailure":{"eventId":"1","new":1}}"#;
        let found: Outcomes = serde_json::from_str(newer).unwrap();
        assert_eq!((found.handled, found.last_failure.unwrap().event_id.as_str()), (1, "1"));
    }

    #[test]
    fn hostile_text_is_one_bounded_line() {
        let hostile = Failure {
            time: "x".repeat(9999),
            event_id: "a\u{1b}[2J\r\nReady=True\u{202e}b".into(),
            status: Some(7),
            error: "é".repeat(9999),
            ..Failure::default()
        };
        let failing = Some(Failing { events: u32::MAX, refused: true });
        let clean = Outcomes { failing, last_failure: Some(hostile), ..Outcomes::default() }.sanitized();
        assert_eq!(clean.failing.unwrap().events, MAX_FAILING_EVENTS);
        let failure = clean.last_failure.unwrap();
        assert_eq!((failure.event_id.as_str(), failure.status), ("a [2J  Ready=True b", None));
        assert_eq!((failure.time.len(), failure.error.len()), (MAX_TEXT, MAX_TEXT));
    }

    #[test]
    fn what_is_not_seen_or_moves_its_neighbours_is_a_space() {
        for hidden in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2066}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{fffb}',
            '\u{13430}',
            '\u{1d173}',
            '\u{e0000}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0100}',
        ] {
            assert_eq!(single_line(&format!("a{hidden}b"), 99), "a b", "{hidden:?}");
        }
        // An Arabic sign before a number is a format character that is seen.
        let seen = "ä é 漢字 עברית عربي \u{600}١ 😀 €";
        assert_eq!(single_line(seen, 99), seen);
    }

    proptest! {
        #[test]
        fn a_line_is_bounded_and_visible(text in "\\PC{0,80}|[\\s\\S]{0,700}", limit in 0usize..600) {
            let line = single_line(&text, limit);
            prop_assert!(line.len() <= limit);
            prop_assert!(!line.contains(|c: char| c.is_control() || is_format(c)));
        }
    }
}
