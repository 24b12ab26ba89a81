//! Group commit: from messages to what became of each of them.
//!
//! ```text
//! submit ──▶ committer ──▶ ledger (pure: what is sent when, what an answer means) ──▶ link ──▶ broker
//!                            rule (pure: when a batch is worth it), recent (pure: probable repetitions)
//!                            progress (pure: how far the stream is, and whether it went back)
//! ```

mod committer;
mod ledger;
mod link;
mod pool;
mod progress;
mod recent;
mod rule;

pub use committer::{Committer, PendingOutcome};
pub use ledger::Outcome;
pub use pool::Pool;
