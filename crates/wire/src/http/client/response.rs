//! What a server answered.

use std::future::poll_fn;
use std::ops::Range;

use http::StatusCode;

use super::ExchangeError;
use super::wire::Wire;
use crate::http::{BodyDecoder, BodyStep, DecodeError, FinalHead, HeadDecoder, Headers};

/// A response whose head has come.
#[derive(Debug)]
pub struct Response {
    wire: Wire,
    status: StatusCode,
    /// Where the field lines are.
    fields: Range<usize>,
    decoder: BodyDecoder,
}

impl Response {
    /// Waits for the head, and writes the request meanwhile.
    pub(super) async fn receive(wire: &mut Wire) -> Result<FinalHead, ExchangeError> {
        let mut decoder = HeadDecoder::default();
        loop {
            let step = decoder.decode(wire.unread())?;
            let consumed = wire.consume(step.consumed);
            if let Some(mut head) = step.head {
                head.fields = consumed.start + head.fields.start..consumed.start + head.fields.end;
                return Ok(head);
            }
            if poll_fn(|cx| wire.poll_more(cx)).await? == 0 {
                return Err(decoder.closed(wire.unread()).into());
            }
        }
    }

    pub(super) fn new(wire: Wire, head: FinalHead) -> Self {
        Self { wire, status: head.status, fields: head.fields, decoder: head.body }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its headers.
    pub fn headers(&self) -> Headers<'_> {
        Headers::new(self.wire.bytes(self.fields.clone()))
    }

    /// Its body. The connection is kept for other requests once that was read to its end.
    pub fn into_body(self) -> Body {
        Body { wire: Some(self.wire), decoder: self.decoder }
    }
}

/// The body of a response. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub struct Body {
    /// As long as the end has not come.
    wire: Option<Wire>,
    decoder: BodyDecoder,
}

impl Body {
    /// The next piece of it, as it came; `None` at its end. Never an empty one.
    ///
    /// # Errors
    /// The body is incomplete: there will be no more of it.
    pub async fn next_piece(&mut self) -> Result<Option<&[u8]>, ExchangeError> {
        match self.next_place().await {
            Ok(Some(place)) => Ok(self.wire.as_ref().map(|wire| wire.bytes(place))),
            Ok(None) => {
                let wire = self.wire.take().filter(Wire::is_clean);
                if let Some(wire) = wire.filter(|_| self.decoder.keeps_alive()) {
                    wire.give_back();
                }
                Ok(None)
            }
            Err(error) => {
                self.wire = None;
                Err(error)
            }
        }
    }

    /// Where the next piece is.
    async fn next_place(&mut self) -> Result<Option<Range<usize>>, ExchangeError> {
        let Some(wire) = &mut self.wire else {
            // The end, or what was in its place, was told before.
            return if self.decoder.is_done() { Ok(None) } else { Err(DecodeError::Closed.into()) };
        };
        loop {
            match self.decoder.decode(wire.unread())? {
                BodyStep::Data(data) => {
                    let consumed = wire.consume(data.end);
                    return Ok(Some(consumed.start + data.start..consumed.end));
                }
                BodyStep::End(bytes) => {
                    wire.consume(bytes);
                    return Ok(None);
                }
                BodyStep::More => {
                    wire.consume(usize::MAX);
                    if poll_fn(|cx| wire.poll_more(cx)).await? == 0 {
                        self.decoder.close()?;
                    }
                }
            }
        }
    }
}
