//! What must hold of every response, whatever its bytes are and however they are split.

use tidegate_wire::http::{BodyStep, DecodeError, HeadDecoder, Headers, MAX_HEAD_BYTES};

type Header = (Vec<u8>, Vec<u8>);

/// How a response was understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// Status and headers, if there is a head.
    head: Option<(u16, Vec<Header>)>,
    body: Vec<u8>,
    end: Result<End, DecodeError>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct End {
    /// What follows the response.
    rest: usize,
    keeps_alive: bool,
}

/// Reads `bytes` as a connection would bring them in pieces of these lengths (the last one again and again), and then
/// close. The decoder is given what it did not consume, and the next piece.
pub fn read(bytes: &[u8], pieces: &[usize]) -> Reading {
    let mut pieces = pieces.iter().copied();
    let (mut begin, mut end, mut length) = (0, 0, bytes.len());
    let mut more = |end: usize| {
        length = pieces.next().unwrap_or(length).max(1);
        bytes.len().min(end.saturating_add(length))
    };
    let mut decoder = HeadDecoder::default();
    let failed = |error| Reading { head: None, body: Vec::new(), end: Err(error) };
    let head = loop {
        match decoder.decode(&bytes[begin..end]) {
            Err(error) => return failed(error),
            Ok(step) => {
                assert!(step.consumed <= end - begin);
                if let Some(head) = step.head {
                    break (begin, step.consumed, head);
                }
                begin += step.consumed;
                assert!(end - begin < MAX_HEAD_BYTES, "what a head waits for is bounded");
            }
        }
        if end == bytes.len() {
            return failed(decoder.closed(&bytes[begin..end]));
        }
        end = more(end);
    };
    let (at, consumed, mut head) = head;
    let headers = Headers::in_head(&bytes[at..end], &head.fields);
    let headers = headers.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    begin = at + consumed;
    let mut body = Vec::new();
    let outcome = loop {
        match head.body.decode(&bytes[begin..end]) {
            Err(error) => break Err(error),
            Ok(BodyStep::End(consumed)) => {
                break Ok(End { rest: bytes.len() - begin - consumed, keeps_alive: head.body.keeps_alive() });
            }
            Ok(BodyStep::Data(data)) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&bytes[begin..end][data.clone()]);
                begin += data.end;
            }
            Ok(BodyStep::More) => {
                begin = end;
                if end < bytes.len() {
                    end = more(end);
                } else if let Err(error) = head.body.close() {
                    break Err(error);
                }
            }
        }
    };
    Reading { head: Some((head.status.as_u16(), headers)), body, end: outcome }
}

/// The same bytes are the same response, however they come.
pub fn check(bytes: &[u8], pieces: &[usize]) {
    let whole = read(bytes, &[]);
    assert_eq!(read(bytes, pieces), whole, "in pieces of {pieces:?}");
    assert_eq!(read(bytes, &[1]), whole, "byte by byte");
}
