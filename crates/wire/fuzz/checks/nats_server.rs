//! What must hold of everything that a NATS server says, whatever its bytes are and however they are split.

use tidegate_wire::nats::{Decoder, HeaderBlock, Message, ProtocolError, ServerOp};

/// The largest message that is taken.
pub const MAX_MESSAGE: usize = 100_000;

/// Reads `bytes` as a connection would bring them in pieces of these lengths (the last one again and again).
fn read(mut bytes: &[u8], pieces: &[usize]) -> (Vec<ServerOp>, Option<ProtocolError>) {
    let mut pieces = pieces.iter().copied();
    let (mut decoder, mut said, mut length) = (Decoder::new(MAX_MESSAGE), Vec::new(), bytes.len());
    while !bytes.is_empty() {
        length = pieces.next().unwrap_or(length).max(1);
        let (mut piece, rest) = bytes.split_at(length.min(bytes.len()));
        bytes = rest;
        while !piece.is_empty() {
            let space = decoder.space();
            let read = piece.len().min(space.len());
            assert!(read > 0, "there is always room");
            space[..read].copy_from_slice(&piece[..read]);
            piece = &piece[read..];
            decoder.advance(read);
            loop {
                match decoder.decode() {
                    Ok(Some(op)) => said.push(op),
                    Ok(None) => break,
                    Err(error) => return (said, Some(error)),
                }
            }
        }
    }
    (said, None)
}

/// What is read is the same in one piece and in these, and no message says anything that could be taken for another
/// line.
pub fn check(bytes: &[u8], pieces: &[usize]) {
    let whole = read(bytes, &[]);
    assert_eq!(read(bytes, pieces), whole);
    for op in &whole.0 {
        match op {
            ServerOp::Message(_, message) => check_message(message, bytes.len()),
            ServerOp::Error(text) => assert!(!text.contains(|char: char| char.is_control())),
            _ => {}
        }
    }
}

fn check_message(message: &Message, read: usize) {
    assert!(message.size() <= read && message.payload().len() <= MAX_MESSAGE);
    assert!(!message.subject().is_empty());
    assert_eq!(message.payload_bytes(), message.payload());
    let Some(headers) = message.headers() else {
        return assert!(message.malformed().is_some() || message.status().is_none());
    };
    assert!(message.malformed().is_none());
    // Lines that were read can be written, one for one.
    let (mut each, mut all) = (HeaderBlock::new(), HeaderBlock::new());
    headers.iter().try_for_each(|(name, value)| each.append(name, value)).expect("checked");
    all.append_all(headers);
    assert!(each.encoded_len() <= all.encoded_len() + 2 * headers.iter().count());
    assert_eq!(headers.iter().count(), headers.as_lines().matches('\n').count());
    for (name, value) in headers.iter() {
        assert!(headers.get_all(&name.to_ascii_uppercase()).any(|found| found == value));
    }
}
