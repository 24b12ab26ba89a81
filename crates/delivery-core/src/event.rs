//! An event here: its name, and what becomes of it.

use std::time::Duration;

/// A moment of the monotonic clock, in milliseconds since the process's beginning.
pub type Moment = u64;

/// An event's partition key, as a number. Two keys with the same number only wait for each other.
pub type Key = u64;

/// A lane of a handler; 0 where there are none.
pub type Lane = u16;

/// In whole milliseconds.
pub fn millis(duration: Duration) -> Moment {
    Moment::try_from(duration.as_millis()).unwrap_or(Moment::MAX)
}

/// An event as it came here, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The lane by which it came.
    pub lane: Lane,
    /// Its sequence in the stream; 0 where there is no stream.
    pub sequence: u64,
    /// When the stream stored it, in nanoseconds since 1970; 0 where there is no stream.
    pub stored: u64,
    /// The consumer's number of this delivery; of an event of the shelf its place there.
    pub delivery: u64,
    /// The number of its arrival here, which no other has. The others are no name: a broker that was killed may have
    /// forgotten its last deliveries, and hands out the same event under the same number again; what is heard of the
    /// first one says nothing of the second.
    pub arrival: u64,
}

/// How an event left this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Handled.
    Acknowledged,
    /// Given to the broker for a later attempt.
    Retried,
    /// Kept aside.
    DeadLettered,
    /// Given back without an attempt, or without knowing its end.
    GivenBack,
    /// Copied to the shelf, because it fails or an event of its key before it does.
    Parked,
    /// Out of attempts: its key waits for a person.
    Held,
    /// Not for this handler: acknowledged undelivered.
    Filtered,
    /// Of a Direct topic, and there was no room for it.
    Dropped,
    /// Of a Direct topic, and the handler did not take it.
    Failed,
    /// Too old: acknowledged undelivered.
    Expired,
    /// It came again although it was settled before: acknowledged again, undelivered.
    Repeated,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Acknowledged,
        Self::Retried,
        Self::DeadLettered,
        Self::GivenBack,
        Self::Parked,
        Self::Held,
        Self::Filtered,
        Self::Dropped,
        Self::Failed,
        Self::Expired,
        Self::Repeated,
    ];

    /// The value of `outcome` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Retried => "retried",
            Self::DeadLettered => "dead-lettered",
            Self::GivenBack => "given-back",
            Self::Parked => "parked",
            Self::Held => "held",
            Self::Filtered => "filtered",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Repeated => "repeated",
        }
    }
}

/// What is to be told to the broker about an event whose attempt is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// It is handled, or safe elsewhere, or not for this handler: the broker may forget it. Counted so.
    Over(Outcome),
    /// An attempt failed and is on record: again after this wait.
    RetryIn(Duration),
    /// It could not be tried, which is not its fault: again after this wait (zero: at once).
    GiveBack(Duration),
    /// It is out of attempts, and its key waits for a person.
    Detain,
}

impl Disposition {
    /// How the event is counted.
    pub fn settled(self) -> Outcome {
        match self {
            Self::Over(settled) => settled,
            Self::RetryIn(_) => Outcome::Retried,
            Self::GiveBack(_) => Outcome::GivenBack,
            Self::Detain => Outcome::Held,
        }
    }
}
