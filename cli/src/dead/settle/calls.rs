//! The calls that settle letters.

use std::io::Write;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Work, add};
use crate::failure::Failure;
use crate::stored::{CallError, parse, raw, with_query};
use crate::terminal::text;

/// Why letters are left for the next call.
const OUT_OF_TIME: &str = "OutOfTime";

/// The answer to a call that drops letters.
#[derive(Deserialize)]
struct DropAnswer {
    details: Details,
}

#[derive(Deserialize)]
struct Details {
    dropped: u64,
    /// Those that were not there.
    gone: Vec<u64>,
}

/// The answer to a call that redrives letters.
#[derive(Deserialize)]
struct RedriveAnswer {
    redriven: u64,
    items: Vec<Redriven>,
    /// Those that were not dealt with.
    left: Vec<u64>,
    /// Why there are any, in one word.
    #[serde(default)]
    reason: String,
    /// The same in words.
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Redriven {
    sequence: u64,
    outcome: String,
    #[serde(default)]
    message: String,
}

impl Work<'_> {
    pub(super) async fn drop_part(&self, part: &[u64], out: &mut dyn Write) -> Result<(), Failure> {
        let path = self.api.path(None, "eventhandlers", self.handler, "deadletters")?;
        self.check_interrupted()?;
        let path = with_query(&path, part.iter().map(|sequence| ("sequence", sequence.to_string())));
        let answer = self.settling(Method::DELETE, &path, None, part.len()).await?;
        let DropAnswer { details } = parse(raw(&answer)?)?;
        add(&self.count, details.dropped);
        details.gone.iter().try_for_each(|sequence| self.say_gone(*sequence, out))
    }

    /// Repeats the call for what the one before had no time for. Each settles a letter at least, or fails. An interruption ends
    /// it between two of them.
    pub(super) async fn redrive_part(&self, mut left: Vec<u64>, out: &mut dyn Write) -> Result<(), Failure> {
        let path = self.api.path(None, "eventhandlers", self.handler, "redrive")?;
        while !left.is_empty() {
            self.check_interrupted()?;
            let body = json!({"sequences": left}).to_string();
            let answer = self.settling(Method::POST, &path, Some(&body), left.len()).await?;
            let answer: RedriveAnswer = parse(raw(&answer)?)?;
            add(&self.count, answer.redriven);
            for item in &answer.items {
                match item.outcome.as_str() {
                    "stays" => {
                        add(&self.staying, 1);
                        self.say(&format!("{} stays a dead letter: {}", item.sequence, text(&item.message)), out)?;
                    }
                    "gone" => self.say_gone(item.sequence, out)?,
                    _ => {}
                }
            }
            if !answer.left.is_empty() && !matches!(answer.reason.as_str(), "" | OUT_OF_TIME) {
                return Err(self.left(&answer));
            }
            if answer.left.len() >= left.len() {
                return Err(Failure::failed("the operator redrives nothing: try again"));
            }
            left = answer.left;
        }
        Ok(())
    }

    /// A call that settles so many letters.
    async fn settling(&self, method: Method, path: &str, body: Option<&str>, asked: usize) -> Result<Bytes, Failure> {
        self.under_way.set(asked);
        let answer = self.api.call_in_turn(method, path, body).await;
        self.under_way.set(0);
        answer.map_err(|error| self.unanswered(error, asked))
    }

    /// What stopped it is not over at once.
    fn left(&self, answer: &RedriveAnswer) -> Failure {
        let wait = format!("kubectl wait eventhandler {} --for=condition=Subscribed", text(self.handler));
        let why = match (answer.reason.as_str(), answer.message.as_str()) {
            ("HandlerChanged", _) => "the handler was changed".to_owned(),
            ("HandlerDeleted", _) => "the handler was deleted, or is another one of its name".to_owned(),
            (reason, "") => text(reason),
            (_, message) => text(message),
        };
        let remedy = match answer.reason.as_str() {
            "HandlerChanged" => format!(". Repeat the command after {}", self.api.location().command(&wait)),
            _ => String::new(),
        };
        Failure::Failed(format!(
            "{why}: this call left {}, and what comes after them was not tried{remedy}",
            answer.left.len()
        ))
    }

    /// A call that was not answered may have done a part of what it was to do.
    fn unanswered(&self, error: CallError, asked: usize) -> Failure {
        match error {
            CallError::Away(why) => Failure::Failed(format!(
                "{why}; up to {asked} more may have been {}: the same command is for those that are left",
                self.settlement.done()
            )),
            error => error.into(),
        }
    }
}
