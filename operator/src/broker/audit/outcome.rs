//! What an audit came to, and what the broker's conditions say of it. Pure.

use tidegate_crds::EventBroker;
use tidegate_crds::broker::AuditStatus;
use tidegate_crds::conditions::{Finding, Status, kind};

use super::words::{self, damaged, more};
use super::{PERIOD, before, is_older};

/// What was found so many seconds ago says nothing of now.
const LATE_AFTER: i64 = 3 * PERIOD;

/// What an audit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Audit {
    /// What there is to remember of it; `None`: there was none yet.
    pub(in crate::broker) status: Option<AuditStatus>,
    /// Raft groups of the servers; `None`: they were not asked.
    pub(in crate::broker) groups: Option<usize>,
    /// What is done, or waited for, before the audit ends; empty where none is under way.
    pub(super) step: String,
    /// Why there was none for so long that nothing is known of what the servers store; empty: there was one.
    pub(super) late: String,
}

/// Why a change of servers is not audited but where it asks for that.
const CHANGE: &str =
    "servers come and go, or load their configuration; Reconciling says what that waits for, and the audit follows";

impl Audit {
    /// Of a broker whose servers are changing: one that is away or new is no sign of damage, and the change itself says when
    /// there is to be an audit.
    pub(in crate::broker) fn during_change(broker: &EventBroker, now: jiff::Timestamp) -> Self {
        Self::put_off(before(broker), CHANGE, now)
    }

    /// As it was when it was seen last.
    pub(in crate::broker) fn as_it_was(broker: &EventBroker) -> Self {
        Self { status: before(broker), ..Self::default() }
    }

    /// The servers were not asked, or not all of them. Copies that are being made again are so until all say that they are
    /// whole. `why`: in words.
    pub(super) fn missed(before: Option<AuditStatus>, groups: Option<usize>, why: &str, now: jiff::Timestamp) -> Self {
        let (mut step, mut late) = (String::new(), String::new());
        if let Some(before) = &before {
            if !before.damaged.is_empty() {
                step = format!("asking the servers again how far it is ({why})");
            }
            if is_older(before, now, LATE_AFTER) {
                let last = before.last_run.as_deref().unwrap_or("never");
                late = format!("what the servers store was audited last at {last}, and could not be since: {why}");
            }
        }
        Self { status: before, groups, step, late }
    }

    /// None was made, and nothing waits for one: pods are away, or servers come and go. `why`: in words.
    pub(in crate::broker) fn put_off(before: Option<AuditStatus>, why: &str, now: jiff::Timestamp) -> Self {
        Self { step: String::new(), ..Self::missed(before, None, why, now) }
    }

    /// Whether an audit is under way.
    pub(in crate::broker) fn is_open(&self) -> bool {
        !self.step.is_empty()
    }

    /// Why no pod is restarted now, and no server comes or goes; `None`: they may. A single server has nothing to wait for:
    /// there is no other copy.
    pub(in crate::broker) fn holds_changes(&self, replicas: i32) -> Option<String> {
        (self.is_open() && replicas > 1)
            .then(|| format!("waiting for the audit of what the servers store: {}", self.step))
    }

    /// The condition.
    pub(in crate::broker) fn intact(&self) -> Finding {
        let find = |status, reason, message: String| Finding::new(kind::INTACT, status, reason, message);
        let Some(status) = &self.status else {
            return find(
                Status::Unknown,
                "NotAudited",
                "what the servers store is audited when all pods are ready".into(),
            );
        };
        if let Some(copy) = status.damaged.first() {
            let more = more(status.damaged_copies - 1);
            return find(Status::False, "CopyDamaged", format!("{}{more}; {}", damaged(copy), self.progress()));
        }
        if let Some(lost) = status.lost.first() {
            let more = more(i64::try_from(status.lost.len()).unwrap_or(i64::MAX) - 1);
            return find(Status::False, "EventsLost", format!("{}{more}", words::lost(lost)));
        }
        if self.is_open() {
            return find(Status::Unknown, "Auditing", self.step.clone());
        }
        if !self.late.is_empty() {
            return find(Status::Unknown, "AuditFailed", self.late.clone());
        }
        find(Status::True, "Audited", "every copy of every stream has all that it should have".into())
    }

    fn progress(&self) -> &str {
        if self.is_open() { &self.step } else { "this is looked at again when all pods are ready" }
    }

    /// Says in the conditions that copies are made again. Topics work meanwhile.
    pub(in crate::broker) fn explain(&self, found: &mut [Finding]) {
        let is_healing = self.is_open() && self.status.as_ref().is_some_and(|status| !status.damaged.is_empty());
        let reconciling = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING && !finding.is_true());
        if let Some(reconciling) = reconciling.filter(|_| is_healing) {
            *reconciling = Finding::new(kind::RECONCILING, Status::True, "HealingCopies", self.step.clone());
        }
    }
}
