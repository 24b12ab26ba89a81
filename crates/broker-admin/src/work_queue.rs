//! The one consumer that reads (a part of) a work queue.

use crate::api::{ApiError, Broker, ConsumerConfig, Missing};
use crate::consumers::{ConsumersFailure, ensure_pace, keep_unchangeable, put_again, same, state};
use crate::positions::is_ahead;

/// Makes the consumer be as configured; writes only what differs. Its stream is there. One that is made again delivers
/// all that the queue has.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub(crate) async fn ensure_consumer(
    broker: &Broker,
    stream: &str,
    mut wanted: ConsumerConfig,
) -> Result<(), ConsumersFailure> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let is_suspended = wanted.pause_until.is_some();
    match broker.consumer(stream, &name).await {
        Ok(found) => {
            // Asked after the consumer, which may have gone on in between. A stream that lost its end would store what
            // the consumer passes over.
            let stored = broker.stream(stream).await.map_err(ConsumersFailure::Stream)?;
            if is_ahead(&found, &state(&stored)) {
                broker.delete_consumer(stream, &name).await.map_err(ConsumersFailure::Consumer)?;
            } else if same(&wanted, &found) {
                return ensure_pace(broker, stream, &found, is_suspended).await;
            } else {
                keep_unchangeable(&mut wanted, &found.config);
            }
        }
        Err(ApiError::NotFound(Missing::Consumer)) => {}
        Err(error) => return Err(ConsumersFailure::Consumer(error)),
    }
    let info = put_again(broker, stream, &wanted).await?;
    ensure_pace(broker, stream, &info, is_suspended).await
}
