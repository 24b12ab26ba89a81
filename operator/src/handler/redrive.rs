//! Gives dead letters to their handler again.
//!
//! In steps of about a second, so that a redrive of any length holds no one up and its progress is seen; where it is
//! is kept in the status alone, so that another operator continues from there. A dead letter becomes an event on a
//! subject that only this handler's consumers read; the broker confirms it before the dead letter is removed. A crash
//! between the two publishes it again, which the broker recognises by its message id; if the handler has changed
//! meanwhile, it is published once more, because its consumers may have passed over the first copy. What the broker will
//! never take stays a letter, which the status and an Event tell, and the next one is looked at.

mod copy;
mod pace;
mod refusal;

use std::collections::HashSet;
use std::time::Duration;

use tidegate_broker_admin::api::Broker;
use tidegate_broker_client::layout;
use tidegate_crds::handler::{Redrive, RedrivePhase, RedriveStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::reconcile::error::Error;
use copy::away;
pub use copy::{Confirmed, Copy, Published, Unfit};
pub(crate) use pace::Pace;

/// A step ends after this long, and the status tells how far it came.
const STEP: Duration = Duration::from_secs(1);
/// After an error of the broker.
const LATER: Duration = Duration::from_secs(3);
/// How the message begins that outlives its step.
const REFUSED: &str = "what is larger than the topic takes stays a dead letter";

/// Which letters are meant.
struct Selection {
    ids: HashSet<String>,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

/// A step's answer: how far it is, and whether there is more to do.
pub struct Progress {
    /// For the status.
    pub status: RedriveStatus,
    /// When to continue; `None`: there is nothing left to do, or a change of something else comes first.
    pub again: Option<Duration>,
    /// What the broker refused for ever in this step, in words.
    pub refused: Option<String>,
}

/// A redrive that does not begin yet, for this reason, or is held up by it.
pub fn waiting(wanted: &Redrive, before: Option<&RedriveStatus>, why: &str) -> Progress {
    let known = before.filter(|before| before.request == wanted.request).cloned();
    let message = Some(why.to_owned());
    let status = known.unwrap_or_else(|| RedriveStatus { message, ..begun(wanted) });
    Progress { status, again: None, refused: None }
}

/// Whose dead letters they are.
pub struct Handler<'a> {
    /// The EventHandler's name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Which specification its consumers have.
    pub generation: i64,
    /// The types it gets: no consumer would read an event of another, so its letter stays.
    pub types: &'a [String],
}

/// Does a step of what is asked for, if there is something left to do.
///
/// # Errors
/// The broker is away, so nothing was done.
pub async fn step(
    broker: &Broker,
    handler: &Handler<'_>,
    wanted: &Redrive,
    before: Option<&RedriveStatus>,
) -> Result<Progress, Error> {
    let stream = broker.stream(&layout::dead_letter_stream(handler.name)).await.map_err(away)?;
    let mut status = match before.filter(|before| before.request == wanted.request) {
        Some(before) if before.phase != RedrivePhase::Running => {
            return Ok(Progress { status: before.clone(), again: None, refused: None });
        }
        Some(before) => {
            let message = before.message.clone().filter(|message| message.starts_with(REFUSED));
            RedriveStatus { message, ..before.clone() }
        }
        None => begun(wanted),
    };
    // What becomes a dead letter from here on is not redriven, or one that fails again would be without an end.
    status.end.get_or_insert(signed(stream.state.last_sequence));
    let selection = match Selection::of(wanted) {
        Ok(selection) => selection,
        Err(message) => {
            status.phase = RedrivePhase::Failed;
            status.message = Some(message);
            return Ok(Progress { status, again: None, refused: None });
        }
    };
    let mut run = Run {
        broker,
        stream: stream.config.name,
        handler,
        wanted,
        selection,
        pace: Pace::new(wanted.rate),
        refused: None,
    };
    let again = run.until(&mut status, Instant::now() + STEP).await.unwrap_or_else(|error| {
        // What was done is done, and counted.
        status.message = Some(error.to_string());
        Some(LATER)
    });
    Ok(Progress { status, again, refused: run.refused })
}

impl Selection {
    fn of(wanted: &Redrive) -> Result<Self, String> {
        let time = |field: &str, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            OffsetDateTime::parse(text, &Rfc3339).map(Some).map_err(|error| format!("redrive.{field}: {error}"))
        };
        Ok(Self {
            ids: wanted.ids.iter().cloned().collect(),
            since: time("since", &wanted.since)?,
            until: time("until", &wanted.until)?,
        })
    }

    fn takes(&self, id: &str, written: OffsetDateTime) -> bool {
        (self.ids.is_empty() || self.ids.contains(id))
            && self.since.is_none_or(|since| written >= since)
            && self.until.is_none_or(|until| written < until)
    }
}

fn begun(wanted: &Redrive) -> RedriveStatus {
    RedriveStatus { request: wanted.request.clone(), ..RedriveStatus::default() }
}

struct Run<'a> {
    broker: &'a Broker,
    stream: String,
    handler: &'a Handler<'a>,
    wanted: &'a Redrive,
    selection: Selection,
    pace: Pace,
    refused: Option<String>,
}

impl Run<'_> {
    /// Redrives until the end, and as long as one copy may have to wait (a second at most): else a redrive of one event
    /// a second would never get to its first. When to continue, if there is more to do.
    async fn until(&mut self, status: &mut RedriveStatus, end: Instant) -> Result<Option<Duration>, Error> {
        loop {
            let enough = self.wanted.count.is_some_and(|count| status.redriven >= count);
            if enough || !self.one(status).await? {
                status.phase = RedrivePhase::Done;
                return Ok(None);
            }
            if Instant::now() >= end {
                return Ok(Some(Duration::ZERO));
            }
        }
    }

    /// Looks at the next letter; `false`: there is none left.
    async fn one(&mut self, status: &mut RedriveStatus) -> Result<bool, Error> {
        let from = u64::try_from(status.position).unwrap_or(0) + 1;
        let subject = layout::dead_letter_subject(self.handler.name);
        let letter = self.broker.next_message(&self.stream, &subject, from).await.map_err(away)?;
        let Some(letter) = letter else { return Ok(false) };
        if status.end.is_some_and(|end| signed(letter.sequence) > end) {
            return Ok(false);
        }
        if let Ok(copy) = Copy::of(self.handler, &letter)
            && self.selection.takes(copy.event().id(), letter.time)
        {
            self.give(&copy, letter.sequence, status).await?;
        }
        status.examined += 1;
        status.position = signed(letter.sequence);
        Ok(true)
    }

    async fn give(&mut self, copy: &Copy<'_>, sequence: u64, status: &mut RedriveStatus) -> Result<(), Error> {
        self.pace.turn().await;
        match copy.publish(self.broker).await? {
            // The consumers are those of this reconcile, and stay so until it ends: none of the same handler comes before.
            Published::Confirmed(confirmed) => {
                confirmed.remove(self.broker, &self.stream).await?;
                status.redriven += 1;
            }
            Published::Refused(why) => {
                let told = format!("{REFUSED}: the last is number {sequence} ({why})");
                tracing::warn!(handler = self.handler.name, "redrive: {told}");
                status.message = Some(told.clone());
                self.refused = Some(told);
            }
        }
        Ok(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
