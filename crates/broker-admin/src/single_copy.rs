//! A stream that keeps one copy of several, and what that would do to its consumers.
//!
//! When a consumer comes down to one copy, nats-server (2.15.2) drops its log with all that was not applied yet. An event
//! whose delivery was among that is not sent; the server still has it in memory as one that is not acknowledged, but what
//! it writes down says with the next delivery that this one was made, too. Whoever begins with what is written (the server
//! after a kill or a restart, another one to which the consumer moves) passes it over for good. So consumers are paused
//! until they have one copy: then no delivery is in the log.
//!
//! A pause ends by itself ([`PAUSE`]), so one that an operator leaves behind which ends meanwhile holds nobody up for long.

use std::time::Duration;

use futures::future::try_join_all;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep};

use crate::api::{ApiError, Broker, ClusterInfo, ConsumerInfo, Missing, Unavailable};

/// How long consumers are paused where nobody lets them go on.
const PAUSE: Duration = Duration::from_secs(60);
/// A pause of which less is left is made longer.
const PAUSE_LEFT: Duration = Duration::from_secs(40);
/// How long all consumers may take to say that they are paused.
const PAUSED_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the other copies may take to go before the caller looks at it again.
const MOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Removes all copies of a stream and its consumers but one: that of `keeper`, if it leads the stream, or that of any
/// server. Nothing is delivered meanwhile. Where that takes longer, the stream is still moving, and this is to be called
/// again.
///
/// # Errors
/// As [`ApiError`] says. Another try continues.
pub(crate) async fn keep_one(broker: &Broker, stream: &str, keeper: Option<&str>) -> Result<(), ApiError> {
    let done = match pause(broker, stream).await {
        Ok(()) => reduce(broker, stream, keeper).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(Reduced::UnderWay) => Ok(()),
        Ok(Reduced::Over) => resume(broker, stream).await,
        Err(error) => {
            // The error is what the caller has to know; the pause ends by itself.
            let _ = resume(broker, stream).await;
            Err(error)
        }
    }
}

/// What became of it.
enum Reduced {
    /// There is one copy, or another server leads by now than the one whose copy was to stay.
    Over,
    /// Others are still there.
    UnderWay,
}

async fn reduce(broker: &Broker, stream: &str, keeper: Option<&str>) -> Result<Reduced, ApiError> {
    match keeper {
        Some(keeper) if !broker.keep_only_copy(stream, keeper).await? => return Ok(Reduced::Over),
        Some(_) => {}
        None => broker.set_stream_copies(stream, 1).await?,
    }
    let begun = Instant::now();
    while begun.elapsed() < MOVE_TIMEOUT {
        match broker.stream(stream).await {
            // Its consumers come before it.
            Ok(info) if info.cluster.as_ref().is_none_or(ClusterInfo::is_single) => return Ok(Reduced::Over),
            // A server may be away for the moment.
            Ok(_) | Err(ApiError::Unavailable(_)) => sleep(LOOK_PERIOD).await,
            Err(error) => return Err(error),
        }
    }
    Ok(Reduced::UnderWay)
}

/// Pauses the consumers of a stream for a while, until each of them says that it delivers nothing. Those of suspended
/// handlers stay as they are.
///
/// # Errors
/// As [`ApiError`] says.
pub(crate) async fn pause(broker: &Broker, stream: &str) -> Result<(), ApiError> {
    let begun = Instant::now();
    let mut before = None;
    loop {
        let now = OffsetDateTime::now_utc();
        let found = consumers(broker, stream).await?;
        let running = found.iter().filter(|consumer| !is_paused_until(consumer, now + PAUSE_LEFT));
        let until = (now + PAUSE).format(&Rfc3339).map_err(|error| ApiError::Unwritable(error.to_string()))?;
        let done = try_join_all(running.map(|consumer| pause_one(broker, stream, consumer, Some(&until)))).await?;
        // What was delivered before is written down when two looks show the same.
        let delivered: Vec<_> = found.iter().map(|consumer| (consumer.name.clone(), consumer.delivered)).collect();
        let is_over = done.is_empty() && found.iter().all(|consumer| consumer.is_paused);
        if is_over && before.replace(delivered.clone()) == Some(delivered) {
            return Ok(());
        }
        if begun.elapsed() > PAUSED_TIMEOUT {
            return Err(Unavailable::TimedOut.into());
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// Lets the consumers go on that [`pause`] paused.
async fn resume(broker: &Broker, stream: &str) -> Result<(), ApiError> {
    let found = consumers(broker, stream).await?;
    let paused = found.iter().filter(|consumer| is_pause(consumer.config.pause_until.as_deref()));
    try_join_all(paused.map(|consumer| pause_one(broker, stream, consumer, None))).await.map(drop)
}

/// Those that outlive their clients.
async fn consumers(broker: &Broker, stream: &str) -> Result<Vec<ConsumerInfo>, ApiError> {
    match broker.list_consumers(stream).await {
        Ok(mut consumers) => {
            consumers.retain(|consumer| consumer.config.durable_name.is_some());
            Ok(consumers)
        }
        Err(ApiError::NotFound(Missing::Stream)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn pause_one(
    broker: &Broker,
    stream: &str,
    consumer: &ConsumerInfo,
    until: Option<&str>,
) -> Result<(), ApiError> {
    match broker.pause_consumer(stream, &consumer.name, until).await {
        // It was removed meanwhile.
        Err(ApiError::NotFound(_)) => Ok(()),
        done => done,
    }
}

fn is_paused_until(consumer: &ConsumerInfo, time: OffsetDateTime) -> bool {
    consumer.config.pause_until.as_deref().and_then(end).is_some_and(|end| end >= time)
}

/// Whether a pause is one that [`keep_one`] makes and that lasts: it ends by itself soon.
pub(crate) fn is_pause(until: Option<&str>) -> bool {
    let now = OffsetDateTime::now_utc();
    until.and_then(end).is_some_and(|end| now < end && end <= now + PAUSE)
}

fn end(until: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(until, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::layout;

    use super::*;

    #[test]
    fn only_a_pause_that_ends_soon_is_one_of_these() {
        let after = |seconds: i64| {
            let end = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
            is_pause(Some(&end.format(&Rfc3339).unwrap()))
        };
        assert!(after(50) && after(2));
        assert!(!after(-1), "it is over");
        assert!(!after(3600), "somebody else's");
        assert!(!is_pause(Some(layout::SUSPENDED_UNTIL)) && !is_pause(Some("soon")) && !is_pause(None));
    }
}
