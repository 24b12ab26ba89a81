//! One attempt of one event: the future that the runner has for it, and how it is ended from outside.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures::future::poll_fn;
use futures::task::AtomicWaker;
use tidegate_broker_client::contract::Routing;
use tidegate_delivery_core::{Disposition, Id};

use crate::broker::message::Message;
use crate::consume::process::Context;

/// An event that is here.
#[derive(Debug)]
pub struct Event {
    /// The event.
    pub message: Message,
    is_ended: AtomicBool,
    waker: AtomicWaker,
}

impl Event {
    /// It came with this message.
    pub fn new(message: Message) -> Self {
        Self { message, is_ended: AtomicBool::new(false), waker: AtomicWaker::new() }
    }

    /// Ends its attempt, if one runs.
    pub fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// What comes of the work, unless the attempt is ended before.
    fn until_ended<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = Option<T>> {
        poll_fn(move |cx| {
            self.waker.register(cx.waker());
            match self.is_ended.load(Ordering::Relaxed) {
                true => Poll::Ready(None),
                false => work.as_mut().poll(cx).map(Some),
            }
        })
    }
}

/// An attempt's end. There is no disposition where it was ended from outside.
pub type FlightResult = (Id, Option<Disposition>);

/// Takes an event to its disposition.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, for each event in flight")]
pub fn fly(context: Arc<Context>, id: Id, event: Arc<Event>) -> impl Future<Output = FlightResult> {
    async move {
        let disposition = match context.config.routing {
            // Pinned here: passed on by value it would be in this future twice.
            Routing::Queued => event.until_ended(pin!(context.handle(&event.message))).await,
            Routing::Direct => Some(Box::pin(context.handle_once(&event.message)).await),
        };
        (id, disposition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of<F: Future>(_: impl Fn(Arc<Context>, Id, Arc<Event>) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// There are up to thousands of them: what does not happen to most events is boxed.
    #[test]
    fn an_event_in_flight_is_small() {
        let size = size_of(fly);
        assert!(size <= 680, "{size} bytes");
    }
}
