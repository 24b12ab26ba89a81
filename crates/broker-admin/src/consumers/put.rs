//! Making consumers, also where the servers have one of the name that they cannot read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{ConsumersFailure, delete_one};
use crate::api::{ApiError, Broker, ConsumerConfig, ConsumerInfo, ErrorCode, Missing, Refusal};

/// What the servers say where they cannot make the files of a consumer, or read them.
const STORE_FAILED: &str = "creating store for consumer";

/// What they say of a consumer that they have, where something of it is to be another one.
const NOT_UPDATED: &str = "can not be updated";
/// A server that has started serves all consumers that it can read within this, or says that it is not ready.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it does.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Makes a consumer, or changes the one there is. One that the servers cannot read any more keeps its name from it: what is
/// left of that goes first. They say it by its store, or that they have no such consumer and cannot update it either; the
/// second is said for a moment also of one that a server has not come to yet after its start.
pub(crate) async fn put_again(
    broker: &Broker,
    stream: &str,
    wanted: &ConsumerConfig,
) -> Result<ConsumerInfo, ConsumersFailure> {
    let done = broker.put_consumer(stream, wanted).await;
    if let Err(ApiError::Refused(why)) = &done
        && (is_unreadable(why) || (is_no_update(why) && stays_unserved(broker, stream, &name(wanted)).await))
    {
        delete_one(broker, stream, &name(wanted)).await?;
        return put_one(broker, stream, wanted).await;
    }
    parse_outcome(done, wanted)
}

/// Whether the servers say that they cannot read the progress of a consumer of this name.
fn is_unreadable(why: &Refusal) -> bool {
    let says = why.description.contains(STORE_FAILED);
    why.error_code == ErrorCode::CONSUMER_STORE_FAILED || (why.error_code == ErrorCode::CONSUMER_CREATE && says)
}

fn is_no_update(why: &Refusal) -> bool {
    why.error_code == ErrorCode::CONSUMER_CREATE && why.description.contains(NOT_UPDATED)
}

/// Whether the servers say for [`SERVED_WITHIN`] that there is no such consumer.
async fn stays_unserved(broker: &Broker, stream: &str, name: &str) -> bool {
    let begun = Instant::now();
    while let Err(ApiError::NotFound(Missing::Consumer)) = broker.consumer(stream, name).await {
        if begun.elapsed() >= SERVED_WITHIN {
            return true;
        }
        sleep(LOOK_PERIOD).await;
    }
    false
}

/// Makes a consumer, or changes the one there is.
pub(crate) async fn put_one(
    broker: &Broker,
    stream: &str,
    wanted: &ConsumerConfig,
) -> Result<ConsumerInfo, ConsumersFailure> {
    parse_outcome(broker.put_consumer(stream, wanted).await, wanted)
}

fn parse_outcome(
    outcome: Result<ConsumerInfo, ApiError>,
    wanted: &ConsumerConfig,
) -> Result<ConsumerInfo, ConsumersFailure> {
    outcome.map_err(|error| match error {
        ApiError::Refused(why) if why.error_code == ErrorCode::MAXIMUM_CONSUMERS_LIMIT => {
            ConsumersFailure::Full { name: name(wanted), why }
        }
        ApiError::Refused(why) if is_final(&why) => ConsumersFailure::Refused { name: name(wanted), why },
        error => ConsumersFailure::Consumer(error),
    })
}

fn name(consumer: &ConsumerConfig) -> String {
    consumer.durable_name.clone().unwrap_or_default()
}

/// Whether the broker judged the configuration (as opposed to its own state, which may change by itself).
fn is_final(refusal: &Refusal) -> bool {
    match refusal.error_code {
        // The latter is said of raft groups (`max_ha_assets`), and just as well while servers of the stream are away.
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::INSUFFICIENT_RESOURCES => false,
        ErrorCode::CONSUMER_CREATE => true,
        _ => refusal.code == 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_reached_is_told_from_a_wrong_configuration() {
        for (code, error_code, expected) in
            [(400, 10026, "Full"), (503, 10023, "Consumer"), (400, 10058, "Refused"), (503, 10005, "Consumer")]
        {
            let refusal = Refusal { code, error_code: ErrorCode(error_code), description: "no".into() };
            let failure = parse_outcome(Err(refusal.into()), &ConsumerConfig::default()).unwrap_err();
            let failure = format!("{failure:?}");
            assert!(failure.starts_with(expected), "{error_code}: {failure}");
        }
    }

    #[test]
    fn only_what_the_servers_cannot_read_is_removed() {
        for (code, description, expected) in [
            (10104, "error creating store for consumer: corrupt state file", true),
            (10012, "error creating store for consumer", true),
            // It may be there, and only not yet served: time tells.
            (10012, "deliver policy can not be updated", false),
            (10014, "consumer not found", false),
        ] {
            let refusal = Refusal { code: 500, error_code: ErrorCode(code), description: description.into() };
            assert_eq!(is_unreadable(&refusal), expected, "{code} {description}");
            assert_eq!(is_no_update(&refusal), description.contains("update"), "{code} {description}");
        }
    }
}
