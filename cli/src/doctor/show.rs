//! How findings are shown: a line for each link, with the first red one in words; or as a document.

use std::io::IsTerminal as _;

use serde_json::{Value, json};

use super::finding::{Finding, State};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Everything that is shown.
pub struct Report {
    /// What was looked at.
    pub subject: String,
    /// What was found, in order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What to look at first.
    pub fn first_red(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.state == State::Red)
    }

    /// How all of it is.
    ///
    /// # Errors
    /// Something is red, or could not be looked at.
    pub fn outcome(&self) -> Result<(), Failure> {
        let subject = &self.subject;
        if let Some(red) = self.first_red() {
            let reds = self.findings.iter().filter(|finding| finding.state == State::Red).count();
            let others = if reds > 1 { "; what else is red may follow from that" } else { "" };
            return Err(Failure::Red(format!("{subject}: begin with the red line {}{others}", red.link)));
        }
        match self.findings.iter().find(|finding| finding.is_unread) {
            Some(unread) => Err(Failure::Unseen(format!(
                "{subject}: nothing is red, but not everything could be looked at: see {}",
                unread.link
            ))),
            None => Ok(()),
        }
    }

    fn document(&self) -> Value {
        let outcome = match self.outcome() {
            Ok(()) => "fine",
            Err(Failure::Red(_)) => "red",
            Err(_) => "unknown",
        };
        json!({
            "subject": self.subject, "outcome": outcome, "firstRed": self.first_red(), "links": self.findings,
        })
    }

    /// A line for each. Only the first red one has all words: what others say follows from it, or is the next thing to look
    /// at.
    fn lines(&self, is_coloured: bool) -> Vec<String> {
        let first = self.first_red();
        let width = self.findings.iter().map(|finding| finding.link.chars().count()).max().unwrap_or(0);
        let line = |finding: &Finding| {
            let Finding { link, state, object, reason, message, .. } = finding;
            let is_said = *state != State::Red || first.is_some_and(|first| std::ptr::eq(first, finding));
            let object = if object.is_empty() { String::new() } else { format!("{object}: ") };
            let words = if is_said && !message.is_empty() { message } else { reason };
            format!("{}  {link:width$}  {object}{words}", state.shown(is_coloured))
        };
        self.findings.iter().map(line).collect()
    }
}

impl State {
    fn shown(self, is_coloured: bool) -> String {
        let (word, colour) = match self {
            Self::Ok => ("ok", 32),
            Self::Warning => ("warning", 33),
            Self::Red => ("red", 31),
            Self::Unknown => ("unknown", 36),
        };
        if is_coloured { format!("\u{1b}[{colour}m{word:7}\u{1b}[0m") } else { format!("{word:7}") }
    }
}

/// Writes it to standard output.
///
/// # Errors
/// Something is red, or could not be looked at; or nobody reads it.
pub fn print(report: &Report, format: Format) -> Result<(), Failure> {
    let mut out = output::stdout();
    if format == Format::Text {
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        report.lines(is_coloured).iter().try_for_each(|line| output::print(&mut out, line))?;
    } else {
        output::print(&mut out, &output::document(&report.document().to_string(), format))?;
    }
    output::flush(&mut out)?;
    report.outcome()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(states: &[State]) -> Report {
        let finding =
            |state: &State| Finding::new("pods", *state, "EventHandler shop/billing", "Why", "because\u{1b}[2J");
        Report { subject: "EventHandler shop/billing".into(), findings: states.iter().map(finding).collect() }
    }

    #[test]
    fn the_first_red_line_has_all_words_and_others_their_reason() {
        use State::{Ok, Red, Unknown, Warning};
        let lines = report(&[Ok, Red, Warning, Red, Unknown]).lines(false);
        assert_eq!(
            lines,
            [
                "ok       pods  EventHandler shop/billing: because [2J",
                "red      pods  EventHandler shop/billing: because [2J",
                "warning  pods  EventHandler shop/billing: because [2J",
                "red      pods  EventHandler shop/billing: Why",
                "unknown  pods  EventHandler shop/billing: because [2J",
            ]
        );
        assert!(report(&[Red]).lines(true)[0].starts_with("\u{1b}[31mred    \u{1b}[0m  pods"));
    }

    #[test]
    fn the_exit_code_says_how_all_of_it_is() {
        use State::{Ok, Red, Unknown, Warning};
        let unread = |states: &[State]| {
            let mut report = report(states);
            report.findings.push(Finding::unread("pods", "", "no right"));
            report
        };
        for (report, code, outcome) in [
            (report(&[Ok, Warning, Unknown]), 0, "fine"),
            (unread(&[Ok]), 5, "unknown"),
            (unread(&[Ok, Red]), 6, "red"),
            (report(&[Red]), 6, "red"),
        ] {
            assert_eq!(report.outcome().map_or_else(|failure| failure.code(), |()| 0), code);
            assert_eq!(report.document()["outcome"], outcome);
            assert_eq!(report.document()["firstRed"]["reason"], if code == 6 { json!("Why") } else { json!(null) });
        }
    }
}
