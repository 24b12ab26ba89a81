//! MQTT 5, as far as a publisher needs it: CONNECT, PUBLISH with QoS 1, and whether they were acknowledged.

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};

use super::Scan;
use crate::events;

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
/// "No matching subscribers" is a success, too.
const SUCCESSES: [u8; 2] = [0, 0x10];

/// A clean start, no keep-alive, no properties, no name.
pub(crate) fn connect() -> Vec<u8> {
    packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00")
}

/// One event in binary mode. It is alone in flight on its connection, so its packet identifier is always 1.
pub(super) fn publish(number: u64) -> anyhow::Result<Bytes> {
    let (headers, body) = events::binary(number)?;
    let mut properties = Vec::new();
    for (name, value) in &headers {
        match name.as_str().strip_prefix("ce-") {
            Some(attribute) => {
                properties.push(0x26);
                string(&mut properties, attribute.as_bytes())?;
            }
            None if name == http::header::CONTENT_TYPE => properties.push(0x03),
            None => continue,
        }
        string(&mut properties, value.as_bytes())?;
    }
    let mut content = Vec::new();
    string(&mut content, b"events")?;
    content.extend([0, 1]);
    variable(&mut content, properties.len());
    content.extend(properties);
    content.extend_from_slice(&body);
    Ok(packet(0x32, &content).into())
}

/// Counts acknowledgements.
pub(super) fn scan(input: &mut BytesMut) -> anyhow::Result<Scan> {
    let mut scan = Scan::default();
    while let Some(&[kind, length]) = input.first_chunk() {
        ensure!(length < 0x80, "a long packet");
        let Some(content) = input.get(2..2 + usize::from(length)) else { break };
        match (kind, content) {
            (CONNACK, [_, 0, ..]) => {}
            (PUBACK, [_, _]) => scan.answered += 1,
            (PUBACK, [_, _, reason, ..]) if SUCCESSES.contains(reason) => scan.answered += 1,
            // The reason is a text, between a few bytes of other things.
            _ => bail!("the ingress says {kind:#x} {content:?}: {}", String::from_utf8_lossy(content)),
        }
        input.advance(2 + usize::from(length));
    }
    Ok(scan)
}

fn packet(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    variable(&mut packet, content.len());
    packet.extend_from_slice(content);
    packet
}

fn string(output: &mut Vec<u8>, text: &[u8]) -> anyhow::Result<()> {
    output.extend(u16::try_from(text.len()).context("a text that is too long")?.to_be_bytes());
    output.extend_from_slice(text);
    Ok(())
}

/// A variable byte integer: seven bits a byte, the lowest first.
fn variable(output: &mut Vec<u8>, mut value: usize) {
    loop {
        let more = if value > 0x7F { 0x80 } else { 0 };
        output.push((value & 0x7F) as u8 | more);
        value >>= 7;
        if value == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_in_the_specification() {
        for (value, expected) in [(0, &[0][..]), (127, &[0x7F]), (128, &[0x80, 1]), (16_384, &[0x80, 0x80, 1])] {
            let mut output = Vec::new();
            variable(&mut output, value);
            assert_eq!(output, expected);
        }
    }

    #[test]
    fn successes_are_counted_and_refusals_are_errors() {
        let all = [&b"\x20\x03\x00\x00\x00"[..], b"\x40\x02\x00\x01", b"\x40\x04\x00\x01\x10\x00"].concat();
        for cut in 0..all.len() {
            let mut input = BytesMut::from(&all[..cut]);
            let first = scan(&mut input).unwrap().answered;
            input.extend_from_slice(&all[cut..]);
            assert_eq!(first + scan(&mut input).unwrap().answered, 2, "{cut}");
        }
        for refusal in [&b"\x20\x03\x00\x87\x00"[..], b"\x40\x03\x00\x01\x97", b"\xE0\x00"] {
            assert!(scan(&mut BytesMut::from(refusal)).is_err());
        }
    }
}
