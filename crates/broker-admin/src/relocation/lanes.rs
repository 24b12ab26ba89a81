//! How far the lanes of a handler are, partition by partition.

use tidegate_broker_client::layout::{self, PARTITIONS};
use time::OffsetDateTime;

use crate::api::{ApiError, Broker, ConsumerInfo, Missing};
use crate::consumers::{ConsumersFailure, filters};
use crate::positions::Position;

/// Subjects of a consumer that are asked for one by one. A lane with more is taken to be as far as it has acknowledged.
const MAX_LOOKUPS: usize = 4096;

/// How far each partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    /// The sequence after which the least of them continues.
    pub after: u64,
    /// For each partition the sequence up to which its events are settled; empty: all are equally far.
    pub settled: Vec<u64>,
    /// When the last of these was stored; `None`: nothing up to there is stored any more.
    pub settled_before: Option<OffsetDateTime>,
}

impl Floors {
    /// Of lanes that are so far, where partitions were `before` when the number of lanes changed the last time.
    pub fn of(lanes: &[u64], before: &[u64]) -> Self {
        let count = u16::try_from(lanes.len()).unwrap_or(u16::MAX);
        let of_lane = |partition| lanes.get(usize::from(layout::lane_of(partition, count))).copied().unwrap_or(0);
        let known = |partition: u32| usize::try_from(partition).ok().and_then(|at| before.get(at)).copied();
        let settled: Vec<u64> =
            (0..PARTITIONS).map(|partition| of_lane(partition).max(known(partition).unwrap_or(0))).collect();
        let after = settled.iter().copied().min().unwrap_or(0);
        let is_even = settled.iter().all(|settled| *settled == after);
        Self { after, settled: if is_even { Vec::new() } else { settled }, settled_before: None }
    }
}

/// Whether each of so many lanes has acknowledged all that it had before what it has, so that [`floors`] tells all that
/// is settled.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn are_drained(broker: &Broker, handler: &str, lanes: u16) -> Result<bool, ConsumersFailure> {
    for lane in 0..lanes {
        let name = layout::lane_consumer(handler, lane);
        let consumer = broker.consumer(layout::EVENT_STREAM, &name).await.map_err(ConsumersFailure::Consumer)?;
        // An event that was delivered again has a second number.
        let delivered = consumer.delivered.consumer_sequence.saturating_sub(consumer.ack_floor.consumer_sequence);
        if consumer.num_ack_pending > 0 && delivered != consumer.num_ack_pending {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How far the handler's lanes are, of which there are so many. `recorded`: what the operator knows of them; `begins`:
/// the sequence after which one begins that has no position. Nobody pulls from them.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn floors(
    broker: &Broker,
    handler: &str,
    lanes: u16,
    recorded: &Position,
    begins: u64,
    before: &[u64],
) -> Result<Floors, ConsumersFailure> {
    let mut found = Vec::with_capacity(usize::from(lanes));
    // Read before the lanes: what is stored later is settled by none of them.
    let stream = broker.stream(layout::EVENT_STREAM).await.map_err(ConsumersFailure::Stream)?;
    for lane in 0..lanes {
        let name = layout::lane_consumer(handler, lane);
        let consumer = match broker.consumer(layout::EVENT_STREAM, &name).await {
            Ok(consumer) => Some(consumer),
            Err(ApiError::NotFound(Missing::Consumer)) => None,
            Err(error) => return Err(ConsumersFailure::Consumer(error)),
        };
        let acknowledged = consumer.as_ref().map_or(0, |consumer| consumer.ack_floor.stream_sequence);
        let known = recorded.acknowledged.get(&name).copied().unwrap_or(0).max(acknowledged);
        let floor = if known == 0 && !recorded.acknowledged.contains_key(&name) { begins } else { known };
        found.push(match &consumer {
            Some(consumer) => settled_by(broker, consumer, floor, stream.state.last_sequence).await?,
            None => floor,
        });
    }
    let mut floors = Floors::of(&found, before);
    if let Some(last) = floors.settled.iter().max() {
        let event = broker.next_message(layout::EVENT_STREAM, ">", *last).await.map_err(ConsumersFailure::Event)?;
        match event {
            Some(event) => floors.settled_before = Some(event.time),
            // What would come again is gone.
            None => floors = Floors { after: *last, ..Floors::default() },
        }
    }
    Ok(floors)
}

/// The sequence before the first stored event of this consumer that it has not acknowledged: a lane that has nothing to
/// do is as far as the others.
async fn settled_by(broker: &Broker, consumer: &ConsumerInfo, floor: u64, last: u64) -> Result<u64, ConsumersFailure> {
    let filters = filters(&consumer.config);
    if filters.is_empty() || filters.len() > MAX_LOOKUPS || floor >= last {
        return Ok(floor);
    }
    let mut next = last.saturating_add(1);
    for filter in filters {
        let found = broker.next_message(layout::EVENT_STREAM, filter, floor + 1).await;
        if let Some(found) = found.map_err(ConsumersFailure::Event)? {
            next = next.min(found.sequence);
        }
        if next == floor + 1 {
            break;
        }
    }
    Ok(next - 1)
}

/// The number of lanes that this handler's consumers were made for; `None`: it has none with lanes.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn lanes_of(broker: &Broker, handler: &str) -> Result<Option<u16>, ConsumersFailure> {
    match broker.consumer(layout::EVENT_STREAM, &layout::lane_consumer(handler, 0)).await {
        Ok(consumer) => Ok(Some(lanes_by(&filters(&consumer.config)))),
        Err(ApiError::NotFound(Missing::Consumer)) => Ok(None),
        Err(error) => Err(ConsumersFailure::Consumer(error)),
    }
}

/// The first lane has partition 0 and every `lanes`th after it.
fn lanes_by(filters: &[&str]) -> u16 {
    let is_of_all = |filter: &&str| filter.split('.').nth(1) == Some("*");
    if filters.iter().any(is_of_all) {
        return 1;
    }
    let partitions = filters.iter().filter(|filter| filter.starts_with("events."));
    let second = partitions.filter_map(|filter| layout::partition_of(filter)).filter(|partition| *partition > 0).min();
    u16::try_from(second.unwrap_or(PARTITIONS)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_as_far_as_its_lane_was() {
        let floors = Floors::of(&[10, 4], &[]);
        assert_eq!(floors.after, 4);
        assert_eq!(floors.settled.len(), 32);
        assert!((0..32).all(|partition| floors.settled[partition] == if partition % 2 == 0 { 10 } else { 4 }));
        assert_eq!(Floors::of(&[7, 7, 7], &[]), Floors { after: 7, ..Floors::default() });
    }

    /// The number changes again before all lanes are beyond what was settled before.
    #[test]
    fn what_was_settled_before_stays_so() {
        let mut before = vec![4; 32];
        before[8] = 100;
        let floors = Floors::of(&[20, 30, 40, 50], &before);
        assert_eq!((floors.after, floors.settled[8], floors.settled[4], floors.settled[3]), (20, 100, 20, 50));
        let floors = Floors::of(&[200; 4], &before);
        assert_eq!(floors, Floors { after: 200, ..Floors::default() });
    }

    #[test]
    fn a_first_lanes_filter_tells_how_many_there_are() {
        for lanes in 1..=32 {
            let partitions = layout::lane_partitions(0, lanes);
            let partitions = (lanes > 1).then_some(&*partitions);
            for types in [&[][..], &["a.*".to_owned(), "b".to_owned()]] {
                let filters = layout::filter_subjects("billing", types, partitions);
                let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                assert_eq!(lanes_by(&filters), lanes, "{filters:?}");
            }
        }
    }
}
