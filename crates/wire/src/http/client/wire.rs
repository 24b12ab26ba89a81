//! One exchange on a connection: what is still to be written, and what was read and not used yet.

use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Outgoing;
use super::buffers::WRITE_BYTES;
use super::pool::Pool;

/// A connection, boxed for as long as it lives: requests in flight are moved and kept by thousands.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Boxed, because most requests go out at once.
    output: Option<Box<Output>>,
    input: Input,
    progress: Progress,
}

/// A connection with its exchange. Dropped, it closes the connection.
#[derive(Debug)]
pub struct Wire {
    pool: Arc<Pool>,
    connection: Box<Connection>,
}

/// How far the exchange came.
#[derive(Debug, Default)]
struct Progress {
    /// The kernel took a byte of the request.
    sent: bool,
    /// A byte of an answer came.
    answered: bool,
    /// Why the request did not go out whole.
    write_error: Option<io::Error>,
}

/// What is left of a request.
#[derive(Debug)]
struct Output {
    /// Its head, and a short body.
    buffer: Vec<u8>,
    /// A long body.
    body: Bytes,
    written: usize,
}

/// What was read.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    /// Of these bytes, those that were not used yet.
    unread: Range<usize>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Box<Self> {
        Box::new(Self { stream, output: None, input: Input::default(), progress: Progress::default() })
    }

    /// Whether the server has neither closed nor said anything without having been asked: that would be taken for the
    /// answer to the next request.
    pub fn is_quiet(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Wire {
    /// Begins an exchange, and writes what can be written at once. What was wrong with that is told by
    /// [`Wire::poll_more`].
    pub fn new<B>(pool: Arc<Pool>, mut connection: Box<Connection>, request: Outgoing<B>) -> Self
    where
        B: AsRef<[u8]> + Into<Bytes>,
    {
        let (mut buffer, body) = (pool.buffers.take_for_write(), request.body.as_ref());
        pool.prefix.encode(&request.lines, body.len(), &mut buffer);
        let body = if buffer.len() + body.len() <= WRITE_BYTES {
            buffer.extend_from_slice(body);
            Bytes::new()
        } else {
            request.body.into()
        };
        connection.progress = Progress::default();
        let mut wire = Self { pool, connection };
        let mut output = Output { buffer, body, written: 0 };
        match output.write(&wire.connection.stream) {
            Ok(false) => {
                wire.connection.progress.sent = output.written > 0;
                wire.connection.output = Some(Box::new(output));
            }
            ended => wire.written(output, ended.err()),
        }
        wire
    }

    /// Nothing of the request went out.
    pub fn is_unsent(&self) -> bool {
        !self.connection.progress.sent && !self.connection.progress.answered
    }

    /// Nothing of an answer came.
    pub fn is_unanswered(&self) -> bool {
        !self.connection.progress.answered
    }

    pub fn unread(&self) -> &[u8] {
        &self.connection.input.bytes[self.connection.input.unread.clone()]
    }

    /// Uses up so many bytes of what is unread; they stay where they are until [`Wire::poll_more`].
    ///
    /// Returns their place.
    pub fn consume(&mut self, bytes: usize) -> Range<usize> {
        let begin = self.connection.input.unread.start;
        self.connection.input.unread.start = self.connection.input.unread.end.min(begin.saturating_add(bytes));
        begin..self.connection.input.unread.start
    }

    /// What was read, at a place.
    pub fn bytes(&self, place: Range<usize>) -> &[u8] {
        self.connection.input.bytes.get(place).unwrap_or_default()
    }

    /// Whether the exchange is over on both sides.
    pub fn is_clean(&self) -> bool {
        self.connection.output.is_none()
            && self.connection.progress.write_error.is_none()
            && self.connection.input.unread.is_empty()
    }

    /// Gives the connection back for further requests.
    pub fn give_back(mut self) {
        self.release();
        self.pool.give_back(self.connection);
    }

    /// Waits until more was read, and writes meanwhile. `0`: the server has closed.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.release();
        self.write(cx);
        if let Some(error) = self.connection.progress.write_error.take_if(|_| !self.connection.progress.sent) {
            return Poll::Ready(Err(error));
        }
        loop {
            ready!(self.connection.stream.poll_read_ready(cx))?;
            match self.read() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(self.note(read)),
            }
        }
    }

    /// Where no answer came, the write says better than the read what happened.
    fn note(&mut self, read: io::Result<usize>) -> io::Result<usize> {
        let progress = &mut self.connection.progress;
        progress.answered |= matches!(read, Ok(1..));
        match progress.write_error.take_if(|_| !progress.answered) {
            Some(error) => Err(error),
            None => read,
        }
    }

    /// Writes what can be written now, of what could not be written at once.
    fn write(&mut self, cx: &mut Context<'_>) {
        while let Connection { stream, output: Some(output), progress, .. } = &mut *self.connection
            && let Poll::Ready(ready) = stream.poll_write_ready(cx)
        {
            let ended = ready.and_then(|()| output.write(stream));
            progress.sent = output.written > 0;
            if !matches!(ended, Ok(false))
                && let Some(output) = self.connection.output.take()
            {
                self.written(*output, ended.err());
            }
        }
    }

    /// Nothing more is written. A server that takes no more of a request may have answered before.
    fn written(&mut self, output: Output, error: Option<io::Error>) {
        let progress = &mut self.connection.progress;
        (progress.sent, progress.write_error) = (output.written > 0, error);
        self.pool.buffers.give_back_written(output.buffer);
    }

    /// Reads, behind what is unread.
    fn read(&mut self) -> io::Result<usize> {
        let Connection { stream, input, .. } = &mut *self.connection;
        let mut buffer = self.pool.buffers.take_for_read();
        let read = stream.try_read(&mut buffer);
        if let Ok(bytes @ 1..) = read {
            if input.unread.is_empty() {
                *input = Input { bytes: buffer, unread: 0..bytes };
                return read;
            }
            input.bytes.extend_from_slice(&buffer[..bytes]);
            input.unread.end += bytes;
        }
        self.pool.buffers.give_back_read(buffer);
        read
    }

    /// Gives the buffer back. What is unread is a part of a head, usually a short one: it is put aside.
    fn release(&mut self) {
        let input = &mut self.connection.input;
        if input.unread != (0..input.bytes.len()) {
            let unread = input.bytes[input.unread.clone()].to_vec();
            let before = std::mem::replace(input, Input { unread: 0..unread.len(), bytes: unread });
            self.pool.buffers.give_back_read(before.bytes);
        }
    }
}

impl Output {
    /// Writes what the kernel takes; whether that was all.
    fn write(&mut self, stream: &TcpStream) -> io::Result<bool> {
        loop {
            let head = self.buffer.get(self.written..).unwrap_or_default();
            let body = self.body.get(self.written.saturating_sub(self.buffer.len())..).unwrap_or_default();
            if head.is_empty() && body.is_empty() {
                return Ok(true);
            }
            let written = if body.is_empty() {
                stream.try_write(head)
            } else {
                stream.try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
