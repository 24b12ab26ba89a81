//! Releases keys that are held: removes their marks from the handler's stream of retries.
//!
//! The sidecar that has a key's lane looks for its mark every ten seconds, and begins again with the key's first event
//! when there is none. What is released is what was held when the release began: up to where that is, is in the status
//! before anything is removed, so an operator that continues for another releases nothing else. To remove a mark that is
//! gone does nothing.

use std::time::Duration;

use tidegate_broker_admin::api::{ApiError, Broker};
use tidegate_broker_admin::held_keys;
use tidegate_crds::handler::{Release, ReleasePhase, ReleaseStatus};
use tokio::time::Instant;

use crate::reconcile::error::Error;

/// A step ends after this long, and the status tells how far it came.
const STEP: Duration = Duration::from_secs(1);
/// After an error of the broker.
const LATER: Duration = Duration::from_secs(3);

/// A step's answer: how far it is, and whether there is more to do.
pub struct Progress {
    /// For the status.
    pub status: ReleaseStatus,
    /// When to continue; `None`: there is nothing left to do, or a change of something else comes first.
    pub again: Option<Duration>,
}

impl Progress {
    /// With nothing left to do.
    fn rest(status: ReleaseStatus) -> Self {
        Self { status, again: None }
    }
}

/// A release that does not begin yet, because pods of an older template are still there.
pub fn waiting(wanted: &Release, before: Option<&ReleaseStatus>) -> Progress {
    let known = before.filter(|before| before.request == wanted.request).cloned();
    let message = Some("waits until all pods are of the present template".to_owned());
    Progress::rest(known.unwrap_or_else(|| ReleaseStatus { message, ..begun(wanted) }))
}

/// Does a step of what is asked for, if there is something left to do.
///
/// # Errors
/// The broker is away, so nothing was done.
pub async fn step(
    broker: &Broker,
    handler: &str,
    wanted: &Release,
    before: Option<&ReleaseStatus>,
) -> Result<Progress, Error> {
    let mut status = before.filter(|before| before.request == wanted.request).cloned().unwrap_or_else(|| begun(wanted));
    if status.phase == ReleasePhase::Done {
        return Ok(Progress::rest(status));
    }
    status.message = None;
    let Some(end) = status.end else {
        let end = held_keys::end(broker, handler).await.map_err(away)?;
        status.end = Some(i64::try_from(end).unwrap_or(i64::MAX));
        return Ok(Progress { status, again: Some(Duration::ZERO) });
    };
    // What is below zero was written by somebody else, and is before the first message.
    let end = u64::try_from(end).unwrap_or(0);
    let run = Run { broker, handler, wanted, end };
    let again = run.until(&mut status, Instant::now() + STEP).await.unwrap_or_else(|error| {
        // What was done is done, and counted.
        status.message = Some(error.to_string());
        Some(LATER)
    });
    Ok(Progress { status, again })
}

struct Run<'a> {
    broker: &'a Broker,
    handler: &'a str,
    wanted: &'a Release,
    end: u64,
}

impl Run<'_> {
    /// Releases until the end. When to continue, if there is more to do.
    async fn until(&self, status: &mut ReleaseStatus, end: Instant) -> Result<Option<Duration>, Error> {
        if self.wanted.keys.is_empty() {
            let released = held_keys::release_all(self.broker, self.handler, self.end).await.map_err(away)?;
            status.released = status.released.saturating_add(i64::try_from(released).unwrap_or(i64::MAX));
        }
        let examined = usize::try_from(status.examined).unwrap_or(0);
        for key in self.wanted.keys.iter().skip(examined) {
            let was_held = held_keys::release_one(self.broker, self.handler, key, self.end).await.map_err(away)?;
            status.released += i64::from(was_held);
            status.examined += 1;
            if Instant::now() >= end {
                return Ok(Some(Duration::ZERO));
            }
        }
        status.phase = ReleasePhase::Done;
        Ok(None)
    }
}

fn begun(wanted: &Release) -> ReleaseStatus {
    ReleaseStatus { request: wanted.request.clone(), ..ReleaseStatus::default() }
}

fn away(error: ApiError) -> Error {
    Error::Broker(format!("release: {error}"))
}
