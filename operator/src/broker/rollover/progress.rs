//! How far a rollover is, as the status says it, and when to look again (pure).

use std::time::Duration;

use tidegate_broker_admin::rollover::{self, Wait};
use tidegate_crds::broker::{RolloverStage, RolloverStatus};
use tidegate_crds::conditions::{Finding, Status, kind};
use time::OffsetDateTime;

use crate::identity::authority::shown;

/// Between two looks at what is waited for.
const WAITING: Duration = Duration::from_secs(5);
/// After a step, whose consequences are made then.
const AFTER_STEP: Duration = Duration::from_millis(500);
/// While publishers have their time.
const PUBLISHERS: Duration = Duration::from_secs(300);
/// Names that a message has at most.
const NAMED: usize = 5;

/// How far a rollover is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::broker) struct Progress {
    /// The stage.
    pub(super) stage: RolloverStage,
    /// Its number.
    pub(super) generation: u64,
    /// The last request.
    pub(super) request: Option<String>,
    /// What is waited for.
    pub(super) wait: Option<Wait>,
    /// A step was taken just now.
    pub(super) has_stepped: bool,
}

impl Progress {
    /// What the status says of it.
    pub(in crate::broker) fn status(&self) -> RolloverStatus {
        let publishers_until = match &self.wait {
            Some(Wait::Publishers(until)) => Some(shown(*until)),
            _ => None,
        };
        let generation = i64::try_from(self.generation).unwrap_or(i64::MAX);
        RolloverStatus { stage: self.stage, generation, request: self.request.clone(), publishers_until }
    }

    /// When to look again.
    pub(in crate::broker) fn again(&self, now: OffsetDateTime) -> Option<Duration> {
        match &self.wait {
            _ if self.has_stepped => Some(AFTER_STEP),
            Some(Wait::Publishers(until)) => Some((*until - now).unsigned_abs().clamp(AFTER_STEP, PUBLISHERS)),
            Some(Wait::Held(_) | Wait::Behind(..)) => Some(WAITING),
            None => None,
        }
    }

    /// The condition while there is something to say.
    pub(in crate::broker) fn finding(&self) -> Option<Finding> {
        let doing = match self.stage {
            RolloverStage::Settled => "a rollover of the certificate authorities is due",
            RolloverStage::Trusting => "the next certificate authorities are trusted beside the present ones (1 of 3)",
            RolloverStage::Signing => {
                "certificates are made by the next authorities, and the former ones are trusted (2 of 3)"
            }
            RolloverStage::Dropping => "the former certificate authorities are no longer trusted (3 of 3)",
        };
        let waiting = match &self.wait {
            None if self.stage == RolloverStage::Settled => return None,
            None => "it has just begun".to_owned(),
            Some(Wait::Held(why)) => format!("waiting until {why}"),
            Some(Wait::Behind(what, names)) => format!("waiting for {what}: {}{}", listed(names), remedy(what)),
            Some(Wait::Publishers(until)) => format!(
                "publishers have until {} to take over their certificates (spec.rollover.publisherGrace)",
                shown(*until)
            ),
        };
        let reason = match self.stage {
            RolloverStage::Settled => "Due",
            RolloverStage::Trusting => "Trusting",
            RolloverStage::Signing => "Signing",
            RolloverStage::Dropping => "Dropping",
        };
        Some(Finding::new(kind::ROLLING_OVER, Status::True, reason, format!("{doing}; {waiting}")))
    }
}

fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(NAMED).cloned().collect();
    if names.len() > NAMED {
        shown.push(format!("{} more", names.len() - NAMED));
    }
    shown.join(", ")
}

/// What a person can do where it takes long.
fn remedy(what: &str) -> &'static str {
    match what {
        rollover::IDENTITIES => ". If it takes longer than a minute, the status of each says why",
        rollover::SIDECARS => {
            ". The kubelet brings the files to a pod within about two minutes; if it takes longer, delete the pod, and another one starts with them"
        }
        _ => ". The kubelet brings the files to a pod within about two minutes; if it takes longer, look at the pod",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
    }

    fn progress(stage: RolloverStage, wait: Option<Wait>) -> Progress {
        Progress { stage, generation: 4, request: Some("leak".into()), wait, has_stepped: false }
    }

    #[test]
    fn it_is_said_what_is_waited_for_and_what_can_be_done() {
        let behind = |what, names: usize| Wait::Behind(what, (0..names).map(|name| format!("p-{name}")).collect());
        assert_eq!(progress(RolloverStage::Settled, None).finding(), None);
        for (stage, wait, reason, says) in [
            (RolloverStage::Settled, Some(Wait::Held("servers change".into())), "Due", "waiting until servers change"),
            (RolloverStage::Trusting, Some(behind(rollover::IDENTITIES, 1)), "Trusting", "the status of each says why"),
            (RolloverStage::Trusting, Some(Wait::Publishers(at(0))), "Trusting", "until 2027-01-15T08:00:00Z"),
            (RolloverStage::Signing, Some(behind(rollover::SIDECARS, 7)), "Signing", "p-4, 2 more. The kubelet"),
            (RolloverStage::Dropping, Some(behind(rollover::SERVERS, 1)), "Dropping", "look at the pod"),
            (RolloverStage::Dropping, None, "Dropping", "(3 of 3)"),
        ] {
            let found = progress(stage, wait).finding().unwrap();
            assert_eq!(found.reason, reason);
            assert!(found.is_true() && found.message.contains(says), "{}", found.message);
        }
    }

    #[test]
    fn it_is_looked_at_again_when_that_may_help() {
        let publishers = |seconds| Some(Wait::Publishers(at(seconds)));
        for (wait, again) in [
            (None, None),
            (Some(Wait::Held("x".into())), Some(WAITING)),
            (publishers(60), Some(Duration::from_secs(60))),
            (publishers(600_000), Some(PUBLISHERS)),
        ] {
            let mut progress = progress(RolloverStage::Trusting, wait);
            assert_eq!(progress.again(at(0)), again);
            progress.has_stepped = true;
            assert_eq!(progress.again(at(0)), Some(AFTER_STEP));
        }
        let status = progress(RolloverStage::Trusting, publishers(0)).status();
        assert_eq!(status.publishers_until.as_deref(), Some("2027-01-15T08:00:00Z"));
    }
}
