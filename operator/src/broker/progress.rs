//! How far a broker's servers are on their way, and what its conditions say of it (pure).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidegate_broker_admin::membership::BrokerStep;
use tidegate_crds::conditions::{Finding, Status, kind};

use super::scale::Scale;

/// Between two steps.
const BETWEEN_STEPS: Duration = Duration::from_millis(500);
/// Between two looks at what is waited for.
const WAITING: Duration = Duration::from_secs(2);
/// A kubelet brings a file to its pods within two minutes or so. A server that has not loaded it after this long will not.
const LOADING_LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// How far the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// They are as many as there are to be, and have loaded what they are to.
    Done,
    /// They are on the way.
    Changing {
        /// What is done, or waited for.
        step: String,
        /// The record, where it changes: it is to be written.
        record: Option<Scale>,
        /// When to look again.
        again: Duration,
        /// Whether the servers are to be audited first: copies are to be taken away, or do not become whole.
        needs_audit: bool,
        /// The server that is to load its configuration.
        loading: Option<String>,
    },
    /// This comes after the restarts, which load the configuration too.
    AfterRestarts,
}

impl Progress {
    pub(super) fn waits(step: String) -> Self {
        Self::Changing { step, record: None, again: WAITING, needs_audit: false, loading: None }
    }

    pub(super) fn acts(step: String, record: Option<Scale>) -> Self {
        Self::Changing { step, record, again: BETWEEN_STEPS, needs_audit: false, loading: None }
    }

    pub(super) fn audits(step: String) -> Self {
        Self::Changing { step, record: None, again: WAITING, needs_audit: true, loading: None }
    }

    /// Whether the servers are to be audited before this goes on.
    pub(super) fn needs_audit(&self) -> bool {
        matches!(self, Self::Changing { needs_audit: true, .. })
    }

    /// A step of the servers, of which `step` tells.
    pub(super) fn acts_on(broker_step: &BrokerStep, step: String) -> Self {
        let loading = match broker_step {
            BrokerStep::Reload { name, .. } => Some(name.clone()),
            _ => None,
        };
        Self::Changing { step, record: None, again: BETWEEN_STEPS, needs_audit: false, loading }
    }

    pub(super) fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Says in the conditions where the broker is on the way to so many servers. `before`: those of before.
    pub(super) fn explain(
        &self,
        found: &mut [Finding],
        scale: &Scale,
        wanted: i32,
        before: &[Condition],
        now: Timestamp,
    ) {
        let is_stalled = found.iter().any(|finding| finding.kind == kind::STALLED && finding.is_true());
        let Self::Changing { step, loading, .. } = self else { return };
        let Some(reconciling) = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING) else { return };
        if is_stalled {
            return;
        }
        if let Some(server) = loading.as_ref().filter(|_| is_overdue(before, now)) {
            let message = format!(
                "{server} has been asked to load its configuration for longer than a kubelet takes to bring it, and does not answer with it: either it refuses the file, as its log says, or its image is another nats-server than this version of the operator was made for, which computes another digest of the same file. Events flow, and nothing else of the broker changes until this ends: use the image that the chart names"
            );
            *reconciling = Finding::new(kind::RECONCILING, Status::True, "ConfigurationNotLoaded", message);
            return;
        }
        let message = if [scale.copies, scale.pods, scale.routes] == [wanted; 3] {
            format!("bringing {wanted} server(s) up to date with their configuration: {step}")
        } else {
            format!("on the way to {wanted} server(s), with {} pod(s) now: {step}", scale.pods)
        };
        *reconciling = Finding::new(kind::RECONCILING, Status::True, "ChangingServers", message);
    }
}

/// Whether the broker is on the way for so long that a server should have loaded its configuration.
fn is_overdue(before: &[Condition], now: Timestamp) -> bool {
    let reconciling = before.iter().find(|known| known.type_ == kind::RECONCILING && known.status == "True");
    reconciling.is_some_and(|known| now.duration_since(known.last_transition_time.0) > LOADING_LIMIT)
}

#[cfg(test)]
mod tests {
    use tidegate_crds::conditions::merge;

    use super::*;
    use crate::reconcile::status::summary;

    #[test]
    fn the_step_is_said_while_the_broker_is_ready() {
        let ready = Finding::new(kind::BROKER_AVAILABLE, Status::True, "AllReady", "1 of 3");
        let said = |progress: &Progress, scale: &Scale| {
            let mut found = summary(vec![ready.clone()], "ready");
            progress.explain(&mut found, scale, 3, &[], Timestamp::now());
            found.into_iter().find(|finding| finding.kind == kind::RECONCILING).unwrap()
        };
        let growing = Scale { routes: 3, ..Scale::new(1) };
        let found = said(&Progress::acts("running 3 pods".into(), None), &growing);
        assert!(found.is_true() && found.reason == "ChangingServers");
        assert_eq!(found.message, "on the way to 3 server(s), with 1 pod(s) now: running 3 pods");
        let loading = said(&Progress::waits("letting b-0 read".into()), &Scale::new(3));
        assert!(loading.message.starts_with("bringing 3 server(s) up to date"), "{}", loading.message);
        // One that never answers with it is not waited for in silence.
        let reload = BrokerStep::Reload { name: "b-0".into(), id: "I".into() };
        let loading = Progress::acts_on(&reload, "letting b-0 read".into());
        let since = |age: SignedDuration| {
            let now = Timestamp::now();
            let reconciling = Finding::new(kind::RECONCILING, Status::True, "ChangingServers", "x");
            let before = merge(vec![reconciling], &[], Some(1), now - age);
            let mut found = summary(vec![ready.clone()], "ready");
            loading.explain(&mut found, &Scale::new(3), 3, &before, now);
            found.into_iter().find(|finding| finding.kind == kind::RECONCILING).unwrap()
        };
        assert_eq!(since(SignedDuration::from_mins(9)).reason, "ChangingServers");
        let overdue = since(SignedDuration::from_mins(11));
        assert!(
            overdue.is_true() && overdue.reason == "ConfigurationNotLoaded" && overdue.message.starts_with("b-0 has")
        );
        for quiet in [Progress::Done, Progress::AfterRestarts] {
            assert!(!said(&quiet, &growing).is_true());
        }
    }
}
