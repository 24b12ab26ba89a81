//! The vocabulary of `status.conditions`.
//!
//! `Ready` sums up. `Reconciling` and `Stalled` are the two that kstatus (and so Helm) reads besides: the
//! first while something is on its way, the second when nothing will happen until a person does something.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types.
pub mod kind {
    /// Everything the resource asks for is there.
    pub const READY: &str = "Ready";
    /// Something is still on its way.
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing will happen until a person changes something.
    pub const STALLED: &str = "Stalled";
    /// The operator changes nothing, because an annotation says so; absent otherwise.
    pub const PAUSED: &str = "Paused";
    /// EventHandler: nothing is delivered, because its specification says so; absent otherwise.
    pub const SUSPENDED: &str = "Suspended";
    /// EventBroker: a majority of its pods is ready. EventTopic: the same of its broker.
    pub const BROKER_AVAILABLE: &str = "BrokerAvailable";
    /// EventBroker: tokens of ServiceAccounts can be verified, because the cluster's keys are known. Of its topics those
    /// depend on it that admit ServiceAccounts.
    pub const TOKENS_ACCEPTED: &str = "TokensAccepted";
    /// EventBroker: client certificates can be verified, because the authorities are known; absent where the specification
    /// names none.
    pub const CERTIFICATES_ACCEPTED: &str = "CertificatesAccepted";
    /// EventBroker: none of its certificates and certificate authorities is near its end. A warning: Ready does not depend
    /// on it.
    pub const CERTIFICATES_CURRENT: &str = "CertificatesCurrent";
    /// EventBroker: its certificate authorities are replaced, or are to be; absent otherwise.
    pub const ROLLING_OVER: &str = "RollingOver";
    /// EventTopic: the broker of another namespace that it names grants its namespace. EventHandler: the same of its
    /// topic. Absent where nothing of another namespace is named.
    pub const GRANTED: &str = "Granted";
    /// EventBroker: it is being deleted and topics are on it; absent otherwise.
    pub const IN_USE: &str = "InUse";
    /// EventBroker: every entry of its external access is open.
    pub const ACCESS_READY: &str = "AccessReady";
    /// EventBroker: its volumes are smaller than its specification says; absent otherwise.
    pub const RESIZING: &str = "Resizing";
    /// EventTopic: the streams are as configured.
    pub const STREAM_READY: &str = "StreamReady";
    /// EventTopic: every ingress of its broker takes events for it, from the publishers that it names.
    pub const ADDRESSABLE: &str = "Addressable";
    /// EventTopic: there is room for further events; False while publishers are refused. EventBroker: there is room for
    /// further topics and handlers. A warning there: Ready does not depend on it.
    pub const HAS_ROOM: &str = "HasRoom";
    /// EventTopic: the broker stores what it is given; False while its disk is full, or it does not answer publishers.
    pub const STORAGE_HEALTHY: &str = "StorageHealthy";
    /// EventTopic: stored events were lost; True until a person acknowledges it.
    pub const DATA_LOST: &str = "DataLost";
    /// EventBroker: every copy of every stream has what the others have; False while one is made again, and while a loss is
    /// not acknowledged. EventTopic: the same of its streams. A warning: Ready does not depend on it.
    pub const INTACT: &str = "Intact";
    /// EventHandler: its topic exists and is ready.
    pub const TOPIC_READY: &str = "TopicReady";
    /// EventHandler: its consumer, account and identity exist.
    pub const SUBSCRIBED: &str = "Subscribed";
    /// EventHandler: its pods are of the current template, and at least one is ready, or none is needed.
    pub const PODS_READY: &str = "PodsReady";
    /// EventHandler: its containers answer; False while they are down as a whole and nothing is pulled.
    pub const HANDLER_AVAILABLE: &str = "HandlerAvailable";
    /// EventHandler: its containers handle events; False while they refuse or fail at event after event.
    pub const DELIVERING: &str = "Delivering";
    /// EventHandler: its program listens on the pod's address, so that others than its sidecar can post to it. A warning:
    /// Ready does not depend on it.
    pub const EXPOSED: &str = "Exposed";
    /// EventHandler: its retry shelf takes no more events. A warning, too.
    pub const RETRIES_FULL: &str = "RetriesFull";
    /// EventHandler: its dead letters kept beside the topic have no more room. A warning, too.
    pub const DEAD_LETTERS_FULL: &str = "DeadLettersFull";
    /// EventHandler: keys wait for a person to release them. A warning, too.
    pub const KEYS_HELD: &str = "KeysHeld";
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It is not known yet.
    Unknown,
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition without its times: those come from what was there before.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// One of [`kind`].
    pub kind: &'static str,
    /// What it says.
    pub status: Status,
    /// CamelCase, not empty.
    pub reason: String,
    /// The reason in words, and what can be done.
    pub message: String,
    /// Nothing will change until a person does something.
    pub is_stalled: bool,
    /// It was not looked at this time, and says what it said before, of the generation that it said that of.
    pub is_kept: bool,
}

impl Finding {
    /// A condition that says this.
    pub fn new(kind: &'static str, status: Status, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, status, reason: reason.into(), message: message.into(), is_stalled: false, is_kept: false }
    }

    /// What a condition of this type said; `None`: there was none. It is still said of the generation that it was said of.
    pub fn kept(kind: &'static str, before: &[Condition]) -> Option<Self> {
        let known = before.iter().find(|condition| condition.type_ == kind)?;
        let status = match known.status.as_str() {
            "True" => Status::True,
            "False" => Status::False,
            _ => Status::Unknown,
        };
        Some(Self { is_kept: true, ..Self::new(kind, status, known.reason.clone(), known.message.clone()) })
    }

    /// The same, where nothing will change until a person does something.
    #[must_use]
    pub fn stalled(self) -> Self {
        Self { is_stalled: true, ..self }
    }

    /// Whether it holds.
    pub fn is_true(&self) -> bool {
        self.status == Status::True
    }
}

/// A status that has conditions.
pub trait HasConditions {
    /// All of them.
    fn conditions(&self) -> &[Condition];

    /// The condition that sums up, once the resource was looked at.
    fn ready(&self) -> Option<&Condition> {
        self.conditions().iter().find(|condition| condition.type_ == kind::READY)
    }
}

/// Conditions from findings: the transition time is the old one as long as the status is the same, and what is kept is still
/// of the generation that it was of. So whoever reads a condition of the present generation knows that it was looked at.
pub fn merge(
    found: Vec<Finding>,
    before: &[Condition],
    generation: Option<i64>,
    now: jiff::Timestamp,
) -> Vec<Condition> {
    found
        .into_iter()
        .map(|finding| {
            let status = finding.status.text();
            let known = before.iter().find(|condition| condition.type_ == finding.kind);
            let unchanged = known.filter(|condition| condition.status == status);
            let kept = known.filter(|_| finding.is_kept);
            // The API keeps whole seconds.
            let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
            Condition {
                last_transition_time: unchanged.map_or(Time(now), |condition| condition.last_transition_time.clone()),
                message: finding.message,
                observed_generation: kept.map_or(generation, |condition| condition.observed_generation),
                reason: finding.reason,
                status: status.to_owned(),
                type_: finding.kind.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let find = |status| vec![Finding::new(kind::READY, status, "Because", "")];
        let first = merge(find(Status::False), &[], Some(1), at(100));
        let second = merge(find(Status::False), &first, Some(2), at(200));
        assert_eq!(second[0].last_transition_time, Time(at(100)));
        assert_eq!(second[0].observed_generation, Some(2));
        let third = merge(find(Status::True), &second, Some(2), at(300));
        assert_eq!(third[0].last_transition_time, Time(at(300)));
    }

    #[test]
    fn what_is_kept_is_of_the_generation_that_it_was_of() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let first = merge(vec![Finding::new(kind::SUBSCRIBED, Status::True, "Subscribed", "")], &[], Some(1), at(100));
        let kept = Finding::kept(kind::SUBSCRIBED, &first).unwrap();
        assert_eq!(merge(vec![kept.clone()], &first, Some(2), at(200)), first, "nothing of it was looked at");
        assert_eq!(
            merge(vec![kept.clone()], &[], Some(2), at(200))[0].observed_generation,
            Some(2),
            "of another resource"
        );
        let looked = Finding { is_kept: false, ..kept };
        assert_eq!(merge(vec![looked], &first, Some(2), at(200))[0].observed_generation, Some(2));
        assert_eq!(Finding::kept(kind::READY, &first), None);
    }
}
