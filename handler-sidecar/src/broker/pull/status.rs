//! What a status message on a pull's inbox means. Pure.

use tidegate_delivery_core::{InboxReport, Trouble};
use tidegate_wire::nats::Headers;

/// The header in which the broker says how many events of an ended request it did not send.
const PENDING: &str = "Nats-Pending-Messages";

/// Understands a status message.
pub fn parse(status: u16, description: Option<&str>, headers: Option<Headers<'_>>) -> InboxReport {
    let description = description.unwrap_or_default().trim();
    let pending = headers.and_then(|headers| headers.get(PENDING)).and_then(|value| value.parse().ok());
    match (status, pending) {
        (100, _) => InboxReport::Alive,
        (409, _) => conflict(description, pending),
        (408, Some(pending)) => InboxReport::Ended(pending),
        (404 | 408, _) => InboxReport::Lost(Trouble::Moved),
        (423, _) => InboxReport::WrongPin,
        (503, _) => InboxReport::Lost(Trouble::NoConsumer),
        (code, _) => InboxReport::Lost(Trouble::Refused(format!("{code} {description}"))),
    }
}

fn conflict(description: &str, pending: Option<usize>) -> InboxReport {
    let lower = description.to_ascii_lowercase();
    let is = |text: &str| lower.contains(text);
    if is("consumer deleted") {
        InboxReport::Lost(Trouble::NoConsumer)
    } else if is("server shutdown") {
        InboxReport::Lost(Trouble::Ending)
    } else if is("leadership change") {
        InboxReport::Lost(Trouble::Moved)
    } else if is("maxwaiting") || is("maxackpending") {
        InboxReport::Lost(Trouble::Busy(description.to_owned()))
    } else if let Some(pending) = pending {
        // "Batch Completed" and "Message Size Exceeds MaxBytes": this request is over, the pull continues.
        InboxReport::Ended(pending)
    } else {
        InboxReport::Lost(Trouble::Refused(format!("409 {description}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signal(code: u16, description: &str, pending: Option<&str>) -> InboxReport {
        let block = pending.map(|pending| format!("NATS/1.0\r\n{PENDING}: {pending}\r\n\r\n"));
        let headers = block.as_ref().map(|block| Headers::parse(block.as_bytes()).unwrap());
        parse(code, Some(description), headers)
    }

    #[test]
    fn every_status_the_server_sends() {
        let busy = |why: &str| InboxReport::Lost(Trouble::Busy(why.into()));
        let refused = |why: &str| InboxReport::Lost(Trouble::Refused(why.into()));
        let moved = || InboxReport::Lost(Trouble::Moved);
        for (code, description, pending, expected) in [
            (100, "Idle Heartbeat", None, InboxReport::Alive),
            (404, "No Messages", None, moved()),
            (408, "Request Timeout", Some("7"), InboxReport::Ended(7)),
            (408, "Interest Expired", Some("3"), InboxReport::Ended(3)),
            (408, "Requests Pending", None, moved()),
            (408, "Request Timeout", Some("many"), moved()),
            (409, "Leadership Change", None, moved()),
            (409, "Server Shutdown", Some("5"), InboxReport::Lost(Trouble::Ending)),
            (409, "Consumer Deleted", None, InboxReport::Lost(Trouble::NoConsumer)),
            (409, "Exceeded MaxWaiting", None, busy("Exceeded MaxWaiting")),
            (409, "Exceeded MaxAckPending", None, busy("Exceeded MaxAckPending")),
            (409, "Batch Completed", Some("2"), InboxReport::Ended(2)),
            (409, "Message Size Exceeds MaxBytes", Some("1"), InboxReport::Ended(1)),
            (409, "Exceeded MaxRequestBatch of 5", None, refused("409 Exceeded MaxRequestBatch of 5")),
            (409, "Consumer is push based", None, refused("409 Consumer is push based")),
            (400, "Bad Request - x", None, refused("400 Bad Request - x")),
            (423, "Nats-Wrong-Pin-Id", Some("1"), InboxReport::WrongPin),
            (503, "", None, InboxReport::Lost(Trouble::NoConsumer)),
        ] {
            assert_eq!(signal(code, description, pending), expected, "{code} {description}");
        }
    }

    proptest! {
        #[test]
        fn only_a_heartbeat_is_a_heartbeat(code in 101u16..1000, description in ".{0,40}", pending in "[0-9a-z]{0,8}") {
            prop_assert_ne!(signal(code, &description, Some(&pending)), InboxReport::Alive);
        }
    }
}
