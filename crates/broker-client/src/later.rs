//! Events that wait for their time: names and headers in the stream `later`, which a topic has if it takes them.
//!
//! | subject | written by | kept until |
//! |---|---|---|
//! | `later.delayed.<key>` | ingress, with a message schedule of the broker (ADR-51) | its time, or it is cancelled |
//! | `due.delayed.<key>` | the broker itself, at that time | an ingress has stored it in the stream of events |
//! | `later.schedules.<name>` | operator, with a repeating schedule | the topic has it no more |
//! | `due.schedules.<name>` | the broker itself, at each time of it | an ingress has stored it, or the next one comes |
//!
//! A key is a [`crate::message_id::TopicKey::cancel_key`]: the same event has the same one.

/// The stream.
pub const STREAM: &str = "later";
/// The consumer by which the ingresses read what is due.
pub const CONSUMER: &str = "ingress";
/// Every event that waits for its time.
pub const DELAYED_SUBJECTS: &str = "later.delayed.*";
/// Every event that is published again and again.
pub const SCHEDULE_SUBJECTS: &str = "later.schedules.*";
/// Everything whose time has come.
pub const DUE_SUBJECTS: &str = "due.>";
/// Where an ingress asks for what is due.
pub const PULL_SUBJECT: &str = "$JS.API.CONSUMER.MSG.NEXT.later.ingress";
/// Where it acknowledges it.
pub const ACKNOWLEDGE_SUBJECTS: &str = "$JS.ACK.later.ingress.>";
/// Where an ingress asks whether the topic takes such events, and how full the stream is.
pub const INFO_SUBJECT: &str = "$JS.API.STREAM.INFO.later";
/// Where an ingress cancels an event (`{"filter":"…"}`).
pub const PURGE_SUBJECT: &str = "$JS.API.STREAM.PURGE.later";

/// The stream's metadata: how far ahead the time of an event may be, in seconds. Without it the topic takes none.
pub const MAX_DELAY: &str = "tidegate.io/max-delay-seconds";

/// The attribute of an event that says when it is to be published. It is not a part of what is published then.
pub const ATTRIBUTE: &str = "tidegatedeliverat";

/// The broker's header for when, and how often, a message is due.
pub const SCHEDULE: &str = "Nats-Schedule";
/// The broker's header for the time zone of a cron pattern.
pub const TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
/// The broker's header for the subject that it has then.
pub const TARGET: &str = "Nats-Schedule-Target";
/// By what the stream of events recognises a repetition of it.
pub const MESSAGE_ID: &str = "Tidegate-Message-Id";

/// Where an event with this key waits.
pub fn delayed_subject(key: &str) -> String {
    format!("later.delayed.{key}")
}

/// Where it is when it is due.
pub fn due_subject(key: &str) -> String {
    format!("due.delayed.{key}")
}

/// Where a schedule of this name is.
pub fn schedule_subject(name: &str) -> String {
    format!("later.schedules.{name}")
}

/// The name of a schedule that is there; `None`: it is something else.
pub fn schedule_name(subject: &str) -> Option<&str> {
    subject.strip_prefix("later.schedules.")
}

/// Where its event is when it is due.
pub fn due_schedule_subject(name: &str) -> String {
    format!("due.schedules.{name}")
}

/// The name of the schedule whose event is due; `None`: it is an event of a publisher.
pub fn due_schedule_name(subject: &str) -> Option<&str> {
    subject.strip_prefix("due.schedules.")
}

/// Where an event with this key waits, and where it is when it is due.
pub fn cancel_subjects(key: &str) -> String {
    format!("*.delayed.{key}")
}
