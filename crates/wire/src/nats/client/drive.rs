//! The turns of a connection: send what there is, take what has come, ask for a sign of life.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::options::{Event, Loss};
use super::state::Shared;
use crate::nats::decode::{Decoder, ServerOp};

/// Reads in one turn: then the tasks for which messages have come have theirs.
const READS_PER_TURN: usize = 8;
/// For how long what a server said before it closed is read.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(200);
/// PINGs without an answer at which a server is still believed to be there.
const MAX_UNANSWERED: u32 = 2;
/// A buffer that has grown beyond this is not kept.
const MAX_KEPT_BUFFER: usize = 256 * 1024;

pub(super) struct Driver<'a, S> {
    stream: S,
    decoder: Decoder,
    shared: &'a Shared,
    /// What is being written, from `written` on.
    chunk: Vec<u8>,
    written: usize,
    /// Whether something was written and not flushed.
    unflushed: bool,
    pings: Interval,
    unanswered: u32,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Driver<'a, S> {
    pub(super) fn new(stream: S, decoder: Decoder, shared: &'a Shared) -> Self {
        let period = shared.options.ping_interval;
        let mut pings = interval_at(Instant::now() + period, period);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stream, decoder, shared, chunk: Vec::new(), written: 0, unflushed: false, pings, unanswered: 0 }
    }

    /// Works until the connection is lost.
    pub(super) async fn run(mut self) -> Loss {
        // Some of it may have come with the answer to CONNECT.
        if let Err(loss) = self.take_in() {
            return loss;
        }
        let loss = poll_fn(|context| match self.turn(context) {
            Ok(()) => Poll::Pending,
            Err(loss) => Poll::Ready(loss),
        })
        .await;
        if matches!(loss, Loss::Renewed) {
            // A server that is still sending when the connection is closed reads no further.
            let _ =
                timeout(LAST_WORDS_LIMIT, poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context))).await;
        }
        if matches!(loss, Loss::Io(_) | Loss::ServerClosed | Loss::Renewed) {
            // It may be in vain.
            let _ = timeout(LAST_WORDS_LIMIT, poll_fn(|context| self.read_rest(context))).await;
        }
        loss
    }

    /// Takes what the server sent before it closed: what is written to it fails before that is read, and before it is
    /// known that there is something to be read.
    fn read_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..READS_PER_TURN {
            match self.read(context) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(_) => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        self.shared.lock().begin_turn(context.waker())?;
        self.ask(context)?;
        self.write(context)?;
        if self.has_sent_all() && self.shared.lock().leaves() {
            return Err(Loss::Renewed);
        }
        for _ in 0..READS_PER_TURN {
            if !self.read(context)? {
                // What was read may have to be answered.
                return self.write(context);
            }
        }
        context.waker().wake_by_ref();
        self.write(context)
    }

    fn ask(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        while self.pings.poll_tick(context).is_ready() {
            if self.unanswered >= MAX_UNANSWERED {
                return Err(Loss::Silent);
            }
            self.unanswered += 1;
            self.shared.lock().ping();
        }
        Ok(())
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        loop {
            if self.written == self.chunk.len() && !self.next_chunk() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(context, &self.chunk[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(Loss::ServerClosed),
                Poll::Ready(Ok(written)) => {
                    self.written += written;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(()),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(context)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn has_sent_all(&self) -> bool {
        self.written == self.chunk.len() && !self.unflushed
    }

    /// Takes what is to be sent next; `false`: there is nothing.
    fn next_chunk(&mut self) -> bool {
        self.chunk.clear();
        self.written = 0;
        if self.chunk.capacity() > MAX_KEPT_BUFFER {
            self.chunk = Vec::new();
        }
        self.shared.lock().take_output(&mut self.chunk);
        let is_there = !self.chunk.is_empty();
        if is_there {
            self.shared.room.notify_waiters();
        }
        is_there
    }

    /// Takes what has come; `false`: that was nothing.
    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, Loss> {
        let mut buffer = ReadBuf::new(self.decoder.space());
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(read) => read?,
        }
        let read = buffer.filled().len();
        if read == 0 {
            return Err(Loss::ServerClosed);
        }
        self.decoder.advance(read);
        self.take_in()?;
        Ok(true)
    }

    fn take_in(&mut self) -> Result<(), Loss> {
        while let Some(op) = self.decoder.decode()? {
            self.hear(op);
        }
        Ok(())
    }

    fn hear(&mut self, op: ServerOp) {
        match op {
            ServerOp::Message(sid, message) => self.shared.dispatch(sid, message),
            ServerOp::Ping => self.shared.lock().answer_ping(&self.shared.options),
            ServerOp::Pong => {
                self.unanswered = 0;
                self.shared.pong();
            }
            ServerOp::Info(info) => self.shared.note(&info),
            ServerOp::Error(text) => self.shared.event(&Event::ServerError(text)),
            ServerOp::Ok => {}
        }
    }
}
