//! HTTP/2 (RFC 9113), as far as a publisher needs it: no more is in flight than the smallest window there is, header
//! fields are literals (RFC 7541, section 6.2.2), and of a response only its end is looked at. That all was stored is
//! seen in the stream.

use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes, BytesMut};

use super::Scan;
use crate::events;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;

/// The flag of DATA and HEADERS, and, with the same bit, ACK of SETTINGS and PING.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub(super) fn opening() -> Vec<u8> {
    let mut opening = PREFACE.to_vec();
    opening.extend(frame(SETTINGS, 0, &[]));
    opening
}

/// One event in binary mode, for stream 0.
pub(super) fn binary(number: u64) -> anyhow::Result<Bytes> {
    let (headers, body) = events::binary(number)?;
    // :method POST, :path /, :scheme https: indexed.
    let mut block = vec![0x83, 0x84, 0x87];
    literal(&mut block, ":authority", b"localhost")?;
    literal(&mut block, "content-length", body.len().to_string().as_bytes())?;
    for (name, value) in &headers {
        literal(&mut block, name.as_str(), value.as_bytes())?;
    }
    let mut request = frame(HEADERS, END_HEADERS, &block);
    request.extend(frame(DATA, END_STREAM, &body));
    Ok(request.into())
}

/// Appends the request as the stream of this index.
pub(super) fn append(output: &mut Vec<u8>, request: &[u8], index: u32) {
    let (stream, mut at) = ((2 * index + 1).to_be_bytes(), output.len());
    output.extend_from_slice(request);
    while let Some(head) = output.get_mut(at..at + HEAD) {
        head[5..].copy_from_slice(&stream);
        at += HEAD + length(head);
    }
}

/// Counts the streams that ended, and acknowledges what wants to be.
pub(super) fn scan(input: &mut BytesMut) -> anyhow::Result<Scan> {
    let mut scan = Scan::default();
    while input.len() >= HEAD {
        let (length, kind, flags) = (length(input), input[3], input[4]);
        let Some(payload) = input.get(HEAD..HEAD + length) else { break };
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => scan.answered += 1,
            SETTINGS if flags & ACK == 0 => scan.reply.extend(frame(SETTINGS, ACK, &[])),
            PING if flags & ACK == 0 => scan.reply.extend(frame(PING, ACK, payload)),
            RESET | GO_AWAY => bail!("the ingress resets: {payload:?}"),
            _ => {}
        }
        input.advance(HEAD + length);
    }
    Ok(scan)
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

fn length(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// A field that is not indexed and not compressed. Lengths below 127 are one byte.
fn literal(block: &mut Vec<u8>, name: &str, value: &[u8]) -> anyhow::Result<()> {
    block.push(0);
    for part in [name.as_bytes(), value] {
        let length = u8::try_from(part.len()).ok().filter(|length| *length < 127);
        block.push(length.context("a field that is too long")?);
        block.extend_from_slice(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_a_stream_of_its_own() {
        let mut output = Vec::new();
        for index in 0..3 {
            append(&mut output, &binary(7).unwrap(), index);
        }
        let (mut at, mut streams) = (0, Vec::new());
        while let Some(head) = output.get(at..at + HEAD) {
            streams.push((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])));
            at += HEAD + length(head);
        }
        assert_eq!(at, output.len());
        assert_eq!(streams, [(HEADERS, 1), (DATA, 1), (HEADERS, 3), (DATA, 3), (HEADERS, 5), (DATA, 5)]);
    }

    #[test]
    fn ends_are_counted_and_pings_answered_wherever_they_are_cut() {
        let mut all = frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 200]);
        all.extend(frame(HEADERS, END_HEADERS, b"block"));
        all.extend(frame(DATA, END_STREAM, &[]));
        all.extend(frame(PING, 0, b"12345678"));
        all.extend(frame(HEADERS, END_HEADERS | END_STREAM, b"block"));
        let mut expected = frame(SETTINGS, ACK, &[]);
        expected.extend(frame(PING, ACK, b"12345678"));
        for cut in 0..all.len() {
            let mut input = BytesMut::from(&all[..cut]);
            let first = scan(&mut input).unwrap();
            input.extend_from_slice(&all[cut..]);
            let second = scan(&mut input).unwrap();
            assert_eq!(first.answered + second.answered, 2);
            assert_eq!([first.reply, second.reply].concat(), expected);
        }
        assert!(scan(&mut BytesMut::from(&frame(GO_AWAY, 0, &[0; 8])[..])).is_err());
    }
}
