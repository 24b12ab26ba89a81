//! How far the consumers of a topic have settled its events (pure).

use async_nats::jetstream::consumer::Info;

/// The sequence up to which a consumer has settled everything, as far as its own numbers say.
///
/// `last_sequence` is the stream's, read **before** the consumer: with nothing pending and nothing unacknowledged the
/// consumer has settled all of that, else what is below its acknowledgement floor. The broker counts an event as
/// pending a moment after it stored it, so this is good for showing positions; before anything is removed for good,
/// [`crate::release`] looks into the stream itself.
pub fn settled_up_to(last_sequence: u64, consumer: &Info) -> u64 {
    let acknowledged = consumer.ack_floor.stream_sequence;
    let is_idle = consumer.num_pending == 0 && consumer.num_ack_pending == 0;
    if is_idle { acknowledged.max(last_sequence) } else { acknowledged }
}

/// The consumer that has settled least, and up to where; `None` without consumers.
pub fn lowest_settled(last_sequence: u64, consumers: &[Info]) -> Option<(&str, u64)> {
    consumers
        .iter()
        .map(|consumer| (consumer.name.as_str(), settled_up_to(last_sequence, consumer)))
        .min_by_key(|(_, settled)| *settled)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A consumer that has acknowledged everything up to `floor`.
    pub(crate) fn consumer(name: &str, floor: u64, pending: u64, unacknowledged: u64) -> Info {
        let at = json!({"consumer_seq": floor, "stream_seq": floor});
        serde_json::from_value(json!({
            "stream_name": "events", "name": name, "created": "2026-01-01T00:00:00Z",
            "config": {"deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant"},
            "delivered": at, "ack_floor": at, "num_ack_pending": unacknowledged, "num_redelivered": 0,
            "num_waiting": 0, "num_pending": pending,
        }))
        .unwrap()
    }

    #[test]
    fn an_idle_consumer_has_settled_all_there_was() {
        for (floor, pending, unacknowledged, settled) in
            [(3, 0, 0, 10), (3, 1, 0, 3), (3, 0, 1, 3), (0, 10, 0, 0), (12, 0, 0, 12)]
        {
            let found = settled_up_to(10, &consumer("a", floor, pending, unacknowledged));
            assert_eq!(found, settled, "floor {floor}, {pending} pending, {unacknowledged} unacknowledged");
        }
    }

    #[test]
    fn the_lowest_counts() {
        let all = [consumer("a", 7, 1, 0), consumer("b_0", 2, 0, 0), consumer("b_1", 4, 9, 0)];
        assert_eq!(lowest_settled(10, &all), Some(("b_1", 4)));
        assert_eq!(lowest_settled(10, &[]), None);
    }
}
