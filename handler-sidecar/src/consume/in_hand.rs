//! An event that the broker lent to this process.
//!
//! It is acknowledged only where [`InHand::acknowledge`] is called. Whatever else happens to it (an early
//! return, a cancelled task, a panic), its drop gives it back, and if even that cannot be sent, the broker takes
//! it back after the consumer's `ack_wait`.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subject};
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::timeout;

use crate::broker::delivery_info::{self, DeliveryInfo};
use crate::ops::budget::{ByteBudget, Share};

const ACKNOWLEDGE: Bytes = Bytes::from_static(b"+ACK");
const GIVE_BACK: Bytes = Bytes::from_static(b"-NAK");
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// An event in hand, as it is stored.
#[derive(Debug)]
pub struct InHand {
    client: Client,
    reply: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
    info: DeliveryInfo,
    settled: bool,
    /// The bytes it takes.
    _share: Share,
}

impl InHand {
    /// Takes a message of the pull's inbox, and its bytes from the budget; `None` if the broker's part of it is missing,
    /// so that it cannot be acknowledged.
    pub fn new(client: Client, message: Message, budget: &ByteBudget) -> Option<Self> {
        let reply = message.reply?;
        let info = delivery_info::parse(&reply)?;
        let Message { headers, payload, length, .. } = message;
        Some(Self { client, reply, headers, payload, info, settled: false, _share: budget.share(length) })
    }

    /// The stored headers.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.headers.as_ref()
    }

    /// The stored payload (a reference to it, not a copy).
    pub fn payload(&self) -> Bytes {
        self.payload.clone()
    }

    /// The broker's number of this delivery; the first is 1. It also counts deliveries that led to no attempt.
    pub fn deliveries(&self) -> u32 {
        self.info.deliveries
    }

    /// The event's sequence in the stream.
    pub fn sequence(&self) -> u64 {
        self.info.sequence
    }

    /// The consumer's number of this delivery, over all events.
    pub fn number(&self) -> u64 {
        self.info.number
    }

    /// It is taken up again without having gone back: as if it had been delivered once more, so that what is on record
    /// of it is read.
    pub fn stays_in_hand(&mut self) {
        self.info.deliveries = self.info.deliveries.saturating_add(1);
    }

    /// Handled, or safe elsewhere: the broker forgets it for this consumer.
    pub async fn acknowledge(self) {
        self.settle(ACKNOWLEDGE).await;
    }

    /// The broker delivers it again, at once.
    pub async fn give_back(self) {
        self.settle(GIVE_BACK).await;
    }

    /// The broker delivers it again, after this wait.
    pub async fn retry_in(self, wait: Duration) {
        self.settle(Bytes::from(format!("-NAK {{\"delay\":{}}}", wait.as_nanos()))).await;
    }

    /// Tells the broker that somebody still works on it: `ack_wait` starts anew.
    pub async fn renew(&self) {
        if let Err(error) = self.client.publish(self.reply.clone(), IN_PROGRESS).await {
            tracing::debug!(%error, sequence = self.sequence(), "an event was not renewed");
        }
    }

    /// Works on it, and tells the broker now and then that somebody does.
    pub async fn renewed<T>(&self, every: Duration, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match timeout(every, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.renew().await,
            }
        }
    }

    /// The broker's acknowledgement subject, for who settles it by a request.
    pub fn acknowledgement(&self) -> &Subject {
        &self.reply
    }

    /// It was settled by a request: there is nothing more to tell.
    pub fn settled_elsewhere(mut self) {
        self.settled = true;
    }

    async fn settle(mut self, with: Bytes) {
        match self.client.publish(self.reply.clone(), with).await {
            Ok(()) => self.settled = true,
            Err(error) => {
                let sequence = self.sequence();
                tracing::warn!(%error, sequence, "an event was not settled: the broker delivers it again");
            }
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if !self.settled {
            // Without waiting: where the connection's queue is full, ack_wait gives it back.
            let _ = self.client.publish(self.reply.clone(), GIVE_BACK).now_or_never();
        }
    }
}
