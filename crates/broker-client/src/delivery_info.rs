//! What the broker tells about a delivery: the tokens of the acknowledgement subject (ADR-15).

/// One delivery of one event to one consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryInfo {
    /// The number of this delivery; the first is 1.
    pub deliveries: u32,
    /// The event's sequence in the stream.
    pub sequence: u64,
    /// The consumer's number of this delivery, over all events.
    pub number: u64,
    /// When the stream stored the event, in nanoseconds since 1970.
    pub stored: u64,
}

/// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`, or
/// the longer form with domain and account before the stream (and more tokens, in time, at the end).
pub fn parse(reply: &str) -> Option<DeliveryInfo> {
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let skipped = match rest.split('.').count() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let mut tokens = rest.split('.').skip(skipped);
    let delivered: u64 = tokens.next()?.parse().ok()?;
    let sequence = tokens.next()?.parse().ok()?;
    let number = tokens.next()?.parse().ok()?;
    let stored = tokens.next()?.parse().ok()?;
    Some(DeliveryInfo { deliveries: u32::try_from(delivered).unwrap_or(u32::MAX), sequence, number, stored })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms() {
        let expected = Some(DeliveryInfo { deliveries: 2, sequence: 41, number: 7, stored: 1_700_000_000_000_000_000 });
        assert_eq!(parse("$JS.ACK.events.billing.2.41.7.1700000000000000000.3"), expected);
        assert_eq!(parse("$JS.ACK._.ACCHASH.events.billing.2.41.7.1700000000000000000.3"), expected);
        assert_eq!(parse("$JS.ACK._.ACCHASH.events.billing.2.41.7.1700000000000000000.3.random"), expected);
    }

    #[test]
    fn anything_else_is_none() {
        for reply in ["", "_INBOX.a.b", "$JS.ACK.events.billing.2.41.7.17", "$JS.ACK.events.billing.x.41.7.17.3"] {
            assert_eq!(parse(reply), None, "{reply}");
        }
        assert_eq!(parse("$JS.ACK.events.billing.2.-1.7.1700000000000000000.3"), None);
        assert_eq!(parse("$JS.ACK.events.billing.2.41.7.-1.3"), None);
    }

    proptest! {
        #[test]
        fn never_panics(reply in "(\\$JS\\.ACK\\.)?[a-z0-9.$_-]{0,60}") {
            let _ = parse(&reply);
        }

        #[test]
        fn what_is_written_is_read(deliveries: u32, sequence: u64) {
            let reply = format!("$JS.ACK.events.billing.{deliveries}.{sequence}.1.2.3");
            prop_assert_eq!(parse(&reply), Some(DeliveryInfo { deliveries, sequence, number: 1, stored: 2 }));
        }
    }
}
