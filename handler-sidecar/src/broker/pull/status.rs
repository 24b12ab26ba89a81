//! What a status message on a pull's inbox means. Pure.

use async_nats::{HeaderMap, StatusCode};

/// The header in which the broker says how many events of an ended request it did not send.
const PENDING: &str = "Nats-Pending-Messages";

/// A status message, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The request is alive and there is nothing to deliver.
    Heartbeat,
    /// A request ended, and this many of its events will not come.
    Ended(usize),
    /// A request ended and it is not said how much of it is left: only a new inbox gives certainty.
    Lost(Trouble),
}

/// Why the broker does not serve the pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The consumer moved to another server: ask again.
    Moved,
    /// Nobody serves the request: the consumer does not exist (any more), or has no leader at the moment, or
    /// this identity may not pull from it.
    NoConsumer,
    /// The consumer has too many requests or too many unacknowledged events.
    Busy(String),
    /// The request does not fit the consumer: somebody must change its settings.
    Refused(String),
    /// No heartbeat came.
    Silent,
}

impl Trouble {
    /// Whether it passes without anybody's doing, so that nobody needs to read about it.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::Moved)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Moved => f.write_str("the consumer moved to another server"),
            Self::NoConsumer => f.write_str(
                "no consumer answers: it does not exist (any more), has no leader yet, or may not be pulled by us",
            ),
            Self::Busy(why) => write!(f, "the consumer is busy: {why}"),
            Self::Refused(why) => write!(f, "the broker refuses the pull: {why}"),
            Self::Silent => f.write_str("the consumer is silent: no heartbeat came"),
        }
    }
}

/// Understands a status message.
pub fn parse(status: StatusCode, description: Option<&str>, headers: Option<&HeaderMap>) -> Signal {
    let description = description.unwrap_or_default().trim();
    let pending = headers.and_then(|headers| headers.get(PENDING)).and_then(|value| value.as_str().parse().ok());
    match (status.as_u16(), pending) {
        (100, _) => Signal::Heartbeat,
        (409, _) => conflict(description, pending),
        (408, Some(pending)) => Signal::Ended(pending),
        (404 | 408, _) => Signal::Lost(Trouble::Moved),
        (503, _) => Signal::Lost(Trouble::NoConsumer),
        (code, _) => Signal::Lost(Trouble::Refused(format!("{code} {description}"))),
    }
}

fn conflict(description: &str, pending: Option<usize>) -> Signal {
    let lower = description.to_ascii_lowercase();
    let is = |text: &str| lower.contains(text);
    if is("consumer deleted") {
        Signal::Lost(Trouble::NoConsumer)
    } else if is("leadership change") || is("server shutdown") {
        Signal::Lost(Trouble::Moved)
    } else if is("maxwaiting") || is("maxackpending") {
        Signal::Lost(Trouble::Busy(description.to_owned()))
    } else if let Some(pending) = pending {
        // "Batch Completed" and "Message Size Exceeds MaxBytes": this request is over, the pull goes on.
        Signal::Ended(pending)
    } else {
        Signal::Lost(Trouble::Refused(format!("409 {description}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signal(code: u16, description: &str, pending: Option<&str>) -> Signal {
        let headers = pending.map(|pending| {
            let mut headers = HeaderMap::new();
            headers.insert(PENDING, pending);
            headers
        });
        parse(StatusCode::from_u16(code).unwrap(), Some(description), headers.as_ref())
    }

    #[test]
    fn every_status_the_server_sends() {
        let busy = |why: &str| Signal::Lost(Trouble::Busy(why.into()));
        let refused = |why: &str| Signal::Lost(Trouble::Refused(why.into()));
        let moved = || Signal::Lost(Trouble::Moved);
        for (code, description, pending, expected) in [
            (100, "Idle Heartbeat", None, Signal::Heartbeat),
            (404, "No Messages", None, moved()),
            (408, "Request Timeout", Some("7"), Signal::Ended(7)),
            (408, "Interest Expired", Some("3"), Signal::Ended(3)),
            (408, "Requests Pending", None, moved()),
            (408, "Request Timeout", Some("many"), moved()),
            (409, "Leadership Change", None, moved()),
            (409, "Server Shutdown", Some("5"), moved()),
            (409, "Consumer Deleted", None, Signal::Lost(Trouble::NoConsumer)),
            (409, "Exceeded MaxWaiting", None, busy("Exceeded MaxWaiting")),
            (409, "Exceeded MaxAckPending", None, busy("Exceeded MaxAckPending")),
            (409, "Batch Completed", Some("2"), Signal::Ended(2)),
            (409, "Message Size Exceeds MaxBytes", Some("1"), Signal::Ended(1)),
            (409, "Exceeded MaxRequestBatch of 5", None, refused("409 Exceeded MaxRequestBatch of 5")),
            (409, "Consumer is push based", None, refused("409 Consumer is push based")),
            (400, "Bad Request - x", None, refused("400 Bad Request - x")),
            (423, "Nats-Wrong-Pin-Id", Some("1"), refused("423 Nats-Wrong-Pin-Id")),
            (503, "", None, Signal::Lost(Trouble::NoConsumer)),
        ] {
            assert_eq!(signal(code, description, pending), expected, "{code} {description}");
        }
    }

    proptest! {
        #[test]
        fn only_a_heartbeat_is_a_heartbeat(code in 101u16..1000, description in ".{0,40}", pending in "[0-9a-z]{0,8}") {
            prop_assert_ne!(signal(code, &description, Some(&pending)), Signal::Heartbeat);
        }
    }
}
