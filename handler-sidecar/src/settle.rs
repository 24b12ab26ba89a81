//! What becomes of an event after an attempt: the decision, the record of attempts, replies, dead letters.

pub mod attempts;
pub mod backoff;
pub mod dead_letter;
pub mod expiry;
pub mod failure;
pub mod outcome;
pub mod outcome_log;
pub mod reply;
pub mod shelf;
pub mod topic_publisher;
