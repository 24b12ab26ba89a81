//! A response, read from whatever bytes there are. The caller keeps them: what was not consumed is given again, with
//! more behind it.

use std::ops::Range;

use http::StatusCode;

use super::DecodeError;
use super::chunked::Chunked;
use super::head::{Framing, Head, MAX_HEAD_BYTES};

/// Interim responses (1xx) before a final one, at most.
const MAX_INTERIM_RESPONSES: u8 = 16;

/// Reads the head of the final response.
#[derive(Debug, Default)]
pub struct HeadDecoder {
    interim_responses: u8,
    /// How much of the current head was searched for its end.
    searched: usize,
    /// How much of it there was when it was parsed.
    parsed: usize,
}

/// What was found of a head.
#[derive(Debug)]
pub struct HeadStep {
    /// So many bytes are used up, by interim responses and the head itself.
    pub consumed: usize,
    /// The head, once it is complete.
    pub head: Option<FinalHead>,
}

/// The head of the final response.
#[derive(Debug)]
pub struct FinalHead {
    /// Its status: not an interim one, but perhaps 101.
    pub status: StatusCode,
    /// Where its field lines are, among the bytes that were given: [`Headers`](super::Headers) reads them.
    pub fields: Range<usize>,
    /// What reads the body.
    pub body: BodyDecoder,
}

impl HeadDecoder {
    /// Reads on. Interim responses are passed over (RFC 9110, section 15.2).
    ///
    /// # Errors
    /// The bytes are not the beginning of a response.
    pub fn decode(&mut self, input: &[u8]) -> Result<HeadStep, DecodeError> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            if !self.is_worth_parsing(rest) {
                return Ok(HeadStep { consumed, head: None });
            }
            let Some(head) = Head::parse(rest)? else {
                self.parsed = rest.len();
                return Ok(HeadStep { consumed, head: None });
            };
            if !head.is_interim() {
                let fields = consumed + head.fields.start..consumed + head.fields.end;
                let body = BodyDecoder { state: State::from(head.framing), keeps_alive: head.keeps_alive };
                let consumed = consumed + head.len;
                return Ok(HeadStep { consumed, head: Some(FinalHead { status: head.status, fields, body }) });
            }
            if self.interim_responses == MAX_INTERIM_RESPONSES {
                return Err(DecodeError::TooManyInterimResponses);
            }
            consumed += head.len;
            *self = Self { interim_responses: self.interim_responses + 1, ..Self::default() };
        }
    }

    /// Why there is no head when the server has closed; `rest` is what was not consumed.
    pub fn closed(&self, rest: &[u8]) -> DecodeError {
        Head::parse(rest).err().unwrap_or(DecodeError::Closed)
    }

    /// Parsing begins at the beginning. So that a head that trickles in costs no more than its length, it is parsed
    /// when there is twice as much of it as before, and when its end is there.
    fn is_worth_parsing(&mut self, head: &[u8]) -> bool {
        let begin = self.searched.saturating_sub(2);
        self.searched = head.len();
        let new = head.get(begin..).unwrap_or_default();
        head.len() > self.parsed.saturating_mul(2)
            || (head.len() >= MAX_HEAD_BYTES && self.parsed < MAX_HEAD_BYTES)
            || new.windows(2).any(|pair| pair == b"\n\n")
            || new.windows(3).any(|three| three == b"\n\r\n")
    }
}

/// Reads the body of a response.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    keeps_alive: bool,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

impl From<Framing> for State {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::new()),
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

/// What was found of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyStep {
    /// All bytes are consumed, and more are needed.
    More,
    /// Here, among the bytes that were given, is a piece of it. What is before the piece's end is consumed.
    Data(Range<usize>),
    /// The body is complete, and so many bytes were consumed. What follows is no part of the response.
    End(usize),
}

impl BodyDecoder {
    /// Reads on. After an error, or [`BodyStep::End`], there is nothing more to read.
    ///
    /// # Errors
    /// The bytes are no chunks where chunks were announced.
    pub fn decode(&mut self, input: &[u8]) -> Result<BodyStep, DecodeError> {
        let data = match &mut self.state {
            State::Done => return Ok(BodyStep::End(0)),
            State::UntilClose => 0..input.len(),
            State::Length(left) => {
                let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                0..taken
            }
            State::Chunked(chunked) => {
                let data = chunked.decode(input)?;
                if chunked.is_done() {
                    self.state = State::Done;
                    return Ok(BodyStep::End(data.end));
                }
                data
            }
        };
        Ok(if data.is_empty() { BodyStep::More } else { BodyStep::Data(data) })
    }

    /// Notes that the server has closed.
    ///
    /// # Errors
    /// The body was to be longer (RFC 9112, section 8).
    pub fn close(&mut self) -> Result<(), DecodeError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunked(_) => Err(DecodeError::Closed),
        }
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether another request may be sent on the connection after this response, if nothing follows it.
    pub fn keeps_alive(&self) -> bool {
        self.keeps_alive && self.is_done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_responses_are_passed_over_and_counted() {
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        let last = "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n";
        let most = usize::from(MAX_INTERIM_RESPONSES);
        let input = format!("{}{last}", interim.repeat(most));
        let step = HeadDecoder::default().decode(input.as_bytes()).unwrap();
        let head = step.head.unwrap();
        assert_eq!((head.status.as_u16(), step.consumed), (204, input.len()));
        assert_eq!(&input[head.fields], "x: y\r\n\r\n");
        let too_many = format!("{}{last}", interim.repeat(most + 1));
        let error = HeadDecoder::default().decode(too_many.as_bytes()).unwrap_err();
        assert_eq!(error, DecodeError::TooManyInterimResponses);
        let switching = HeadDecoder::default().decode(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
        assert_eq!(switching.head.unwrap().status, 101, "it is final");
    }

    #[test]
    fn a_head_that_trickles_in_is_parsed_a_few_times() {
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(20_000));
        let (mut decoder, mut parsed) = (HeadDecoder::default(), 0);
        for end in 1..head.len() {
            let before = decoder.parsed;
            assert!(decoder.decode(&head.as_bytes()[..end]).unwrap().head.is_none());
            parsed += usize::from(decoder.parsed != before);
        }
        assert!(decoder.decode(head.as_bytes()).unwrap().head.is_some());
        assert!(parsed < 20, "{parsed}");
    }

    #[test]
    fn a_body_ends_where_it_was_said() {
        let mut length = BodyDecoder { state: State::Length(3), keeps_alive: true };
        assert_eq!(length.decode(b""), Ok(BodyStep::More));
        assert_eq!(length.decode(b"ab"), Ok(BodyStep::Data(0..2)));
        assert_eq!(length.close(), Err(DecodeError::Closed));
        assert_eq!(length.decode(b"cHTTP"), Ok(BodyStep::Data(0..1)));
        assert_eq!((length.decode(b"HTTP"), length.keeps_alive()), (Ok(BodyStep::End(0)), true));
        let mut until_close = BodyDecoder { state: State::UntilClose, keeps_alive: false };
        assert_eq!(until_close.decode(b"ab"), Ok(BodyStep::Data(0..2)));
        assert_eq!(until_close.close(), Ok(()));
        assert_eq!(until_close.decode(b""), Ok(BodyStep::End(0)));
    }
}
