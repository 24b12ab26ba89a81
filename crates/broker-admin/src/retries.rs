//! The consumer of a handler's retry shelf: with `order: None` its sidecars read there what waits for its next attempt.
//! (With `order: Key` they read the stream itself, key by key.)

use std::collections::HashMap;

use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;

use crate::api::{AckPolicy, Broker, ConsumerConfig, DeliverPolicy};
use crate::consumers::{ConsumersFailure, Handler, MAX_EXPIRES, MAX_WAITING, UID};
use crate::work_queue;

/// Events delivered and not acknowledged at most: all that wait are, each until it is due. Beyond that the shelf
/// delivers in its order, so an event that is due may wait for others that are not. The broker keeps some hundred bytes
/// of each.
const WINDOW: i64 = 100_000;

/// How the consumer is; `None`: the handler reads the stream itself.
fn config(handler: &Handler) -> Option<ConsumerConfig> {
    (handler.order == Order::None).then(|| ConsumerConfig {
        durable_name: Some(handler.name.clone()),
        description: Some("events of a Tidegate handler that wait for a retry".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: handler.ack_wait,
        max_deliver: -1,
        filter_subjects: vec![layout::waiting_subject(&handler.name)],
        max_waiting: MAX_WAITING,
        max_ack_pending: WINDOW,
        max_expires: MAX_EXPIRES,
        // As many as its stream has, which is the only number that the broker takes here (10134).
        num_replicas: 0,
        metadata: HashMap::from([(UID.to_owned(), handler.uid.clone())]),
        pause_until: handler.is_suspended.then(|| layout::SUSPENDED_UNTIL.to_owned()),
        ..ConsumerConfig::default()
    })
}

/// Makes the consumer be as configured, if the handler has one; writes only what differs. Its stream is there
/// ([`crate::handler_streams::ensure`]). One that is made again delivers all that wait.
///
/// # Errors
/// As [`ConsumersFailure`] says.
pub async fn ensure(broker: &Broker, handler: &Handler) -> Result<(), ConsumersFailure> {
    let Some(wanted) = config(handler) else { return Ok(()) };
    work_queue::ensure_consumer(broker, &layout::retry_stream(&handler.name), wanted).await
}
