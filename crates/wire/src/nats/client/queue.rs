//! The messages of a subscription that wait to be taken.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::options::QueueLimits;
use crate::nats::message::Message;

#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    closed: bool,
    /// Whether a message was dropped since the queue was empty.
    overflows: bool,
    waker: Option<Waker>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Taken,
    /// It is dropped, as the first since the queue was empty.
    OverflowBegins,
    Dropped,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, waiting: Mutex::default() }
    }

    pub(super) fn push(&self, message: Message) -> Pushed {
        let mut waiting = self.lock();
        let size = message.size();
        let too_large = waiting.bytes > 0 && waiting.bytes.saturating_add(size) > self.limits.bytes;
        if waiting.closed || too_large || waiting.messages.len() >= self.limits.messages {
            let begins = !std::mem::replace(&mut waiting.overflows, true);
            return if begins { Pushed::OverflowBegins } else { Pushed::Dropped };
        }
        waiting.bytes += size;
        waiting.messages.push_back(message);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        Pushed::Taken
    }

    /// Nothing more will come; what waits can still be taken.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut waiting = self.lock();
        if let Some(message) = waiting.messages.pop_front() {
            waiting.bytes -= message.size();
            waiting.overflows &= !waiting.messages.is_empty();
            return Poll::Ready(Some(message));
        }
        if waiting.closed {
            return Poll::Ready(None);
        }
        if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            waiting.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// No user code runs under the lock: what a panic left is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use super::*;

    fn message(size: usize) -> Message {
        Message::compose("s", None, None, &vec![0; size - 1]).unwrap()
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_size() {
        let queue = Queue::new(QueueLimits { messages: 3, bytes: 100 });
        let context = &mut Context::from_waker(Waker::noop());
        assert_eq!(queue.push(message(500)), Pushed::Taken, "alone, whatever its size");
        assert_eq!(queue.push(message(1)), Pushed::OverflowBegins);
        assert_eq!(queue.push(message(1)), Pushed::Dropped);
        assert!(matches!(queue.poll(context), Poll::Ready(Some(message)) if message.size() == 500));
        assert_eq!((0..3).filter(|_| queue.push(message(10)) == Pushed::Taken).count(), 3);
        assert_eq!(queue.push(message(1)), Pushed::OverflowBegins, "it was empty");
        queue.close();
        assert_eq!((0..3).filter(|_| matches!(queue.poll(context), Poll::Ready(Some(_)))).count(), 3);
        assert!(matches!(queue.poll(context), Poll::Ready(None)));
    }
}
