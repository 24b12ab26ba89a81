//! A subscription, as its owner sees it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::Client;
use super::queue::Queue;
use crate::nats::message::Message;

/// The messages of a subscription. It ends when it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    client: Client,
    sid: u64,
    queue: Arc<Queue>,
}

impl Subscriber {
    pub(super) fn new(client: Client, sid: u64, queue: Arc<Queue>) -> Self {
        Self { client, sid, queue }
    }

    /// The next message; `None`: there will be no more. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Message> {
        poll_fn(|context| self.queue.poll(context)).await
    }

    /// Ends the subscription. What the server sent before it heard of that still comes, and then `None`.
    pub fn drain(&self) {
        self.client.shared().lock().drain(self.sid);
    }
}

impl Stream for Subscriber {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.queue.poll(context)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.client.shared().lock().unsubscribe(self.sid);
    }
}
