//! A body in chunks (RFC 9112, section 7.1), of whose extensions and trailers nothing is kept.

use std::ops::Range;

use super::DecodeError;

/// Extensions and trailers have this many bytes at most, together.
const MAX_OVERHEAD_BYTES: u16 = 16 << 10;
/// As many digits as 2^64 - 1 has. More could only be leading zeros.
const MAX_SIZE_DIGITS: u8 = 16;

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A digit of a size, after so many others.
    Size {
        size: u64,
        digits: u8,
    },
    /// Of white space between a size and its extensions.
    Space {
        size: u64,
    },
    /// Of extensions.
    Extension {
        size: u64,
    },
    /// The end of the line of a size.
    SizeLf {
        size: u64,
    },
    /// Data, of which so much is missing.
    Data(u64),
    /// After data.
    DataCr,
    DataLf,
    /// The first one of a line after the last chunk.
    LineStart,
    /// Of a trailer field.
    Trailer,
    /// The end of everything.
    LastLf,
    /// Of another response.
    Done,
}

/// Where in such a body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    overhead: u16,
}

impl Chunked {
    pub fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, overhead: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads up to the end of the next piece of data; its place, which ends where reading ended, is empty if there is
    /// none (the body is done, or more bytes are needed).
    pub fn decode(&mut self, input: &[u8]) -> Result<Range<usize>, DecodeError> {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self.state {
                State::Done => break,
                State::Data(left) => {
                    // At least one byte is there, and one is missing.
                    let here = input.len() - at;
                    let taken = usize::try_from(left).map_or(here, |left| left.min(here));
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    return Ok(at..at + taken);
                }
                state => {
                    self.state = self.after(state, *byte)?;
                    at += 1;
                }
            }
        }
        Ok(at..at)
    }

    /// The state after a byte that is no data.
    fn after(&mut self, state: State, byte: u8) -> Result<State, DecodeError> {
        match (state, byte) {
            (State::Size { digits: 1.., size }, b'\r') => Ok(State::SizeLf { size }),
            (State::Size { digits: 1.., size }, b' ' | b'\t') => Ok(State::Space { size }),
            (State::Size { digits: 1.., size }, b';') => Ok(State::Extension { size }),
            (State::Size { size, digits }, digit) => add_digit(size, digits, digit),
            (State::Space { size } | State::Extension { size }, b'\r') => Ok(State::SizeLf { size }),
            (State::Space { size }, b';') => self.overhead(State::Extension { size }),
            (State::Space { .. }, b' ' | b'\t') => self.overhead(state),
            (State::Extension { .. }, byte) if byte != b'\n' => self.overhead(state),
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::LineStart),
            (State::SizeLf { size }, b'\n') => Ok(State::Data(size)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::LineStart, b'\r') => Ok(State::LastLf),
            // A single LF ends a line (RFC 9112, section 2.2).
            (State::LineStart | State::LastLf, b'\n') => Ok(State::Done),
            (State::Trailer, b'\n') => self.overhead(State::LineStart),
            (State::LineStart | State::Trailer, _) => self.overhead(State::Trailer),
            _ => Err(DecodeError::Chunk),
        }
    }

    fn overhead(&mut self, next: State) -> Result<State, DecodeError> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD_BYTES { Err(DecodeError::ChunkOverhead) } else { Ok(next) }
    }
}

fn add_digit(size: u64, digits: u8, digit: u8) -> Result<State, DecodeError> {
    let value = char::from(digit).to_digit(16).ok_or(DecodeError::ChunkSize)?;
    if digits == MAX_SIZE_DIGITS {
        return Err(DecodeError::ChunkSize);
    }
    // Sixteen digits are 64 bits.
    Ok(State::Size { size: size << 4 | u64::from(value), digits: digits + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of a body, what is left behind its end, and whether it came.
    fn decode(input: &str) -> Result<(String, &str, bool), DecodeError> {
        let (mut chunked, mut data, mut rest) = (Chunked::new(), String::new(), input);
        loop {
            let piece = chunked.decode(rest.as_bytes())?;
            data.push_str(&rest[piece.clone()]);
            rest = &rest[piece.end..];
            if piece.is_empty() {
                return Ok((data, rest, chunked.is_done()));
            }
        }
    }

    #[test]
    fn chunks_are_put_together() {
        for (input, expected) in [
            ("0\r\n\r\n", ("", "", true)),
            ("3\r\nabc\r\n00b\r\n hello you!\r\n0\r\n\r\nHTTP", ("abc hello you!", "HTTP", true)),
            ("3;name=value\r\nabc\r\n0 ; x\r\n\r\n", ("abc", "", true)),
            ("1\r\na\r\n0\r\nTrailer: x\r\ny: z\n\r\n+", ("a", "+", true)),
            ("A\r\n01234", ("01234", "", false)),
            ("A", ("", "", false)),
            ("1\r\na", ("a", "", false)),
            ("ffffffffffffffff\r\nabc", ("abc", "", false)),
        ] {
            let (data, rest, is_done) = decode(input).unwrap();
            assert_eq!((data.as_str(), rest, is_done), expected, "{input}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for (input, expected) in [
            ("\r\n", DecodeError::ChunkSize),
            ("g\r\n", DecodeError::ChunkSize),
            ("-1\r\n", DecodeError::ChunkSize),
            ("0x1\r\n", DecodeError::ChunkSize),
            (";a\r\n", DecodeError::ChunkSize),
            ("1\n", DecodeError::ChunkSize),
            ("10000000000000000\r\n", DecodeError::ChunkSize),
            ("00000000000000000\r\n", DecodeError::ChunkSize),
            ("1 1\r\n", DecodeError::Chunk),
            ("1;a\n", DecodeError::Chunk),
            ("1\ra", DecodeError::Chunk),
            ("1\r\nab", DecodeError::Chunk),
            ("1\r\na\n", DecodeError::Chunk),
            ("1\r\na\rb", DecodeError::Chunk),
            ("0\r\n\rx", DecodeError::Chunk),
        ] {
            assert_eq!(decode(input), Err(expected), "{input}");
        }
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let allowed = "x".repeat(usize::from(MAX_OVERHEAD_BYTES) - 1);
        for (before, after) in [("1;", "\r\na\r\n0\r\n\r\n"), ("1\r\na\r\n0\r\n", "\n\r\n")] {
            assert_eq!(decode(&format!("{before}{allowed}{after}")).map(|(data, ..)| data), Ok("a".into()));
            assert_eq!(decode(&format!("{before}{allowed}xx{after}")), Err(DecodeError::ChunkOverhead));
        }
        assert_eq!(
            decode(&format!("1{}", " ".repeat(usize::from(MAX_OVERHEAD_BYTES) + 2))),
            Err(DecodeError::ChunkOverhead)
        );
        let chunks = "1;0123456\r\na\r\n".repeat(usize::from(MAX_OVERHEAD_BYTES) / 7 + 1);
        assert_eq!(decode(&chunks), Err(DecodeError::ChunkOverhead), "of all chunks together");
    }
}
