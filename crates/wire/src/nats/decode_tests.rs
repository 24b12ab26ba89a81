#![allow(clippy::unwrap_used)] // a test fails by panicking

use proptest::prelude::*;

use super::*;
use crate::nats::header::HeaderError;
use crate::nats::message::Malformed;

const MAX: usize = 100_000;

/// What is made of these pieces: what was said, and how it ended.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<ServerOp>, Option<ProtocolError>) {
    let (mut decoder, mut said) = (Decoder::new(MAX), Vec::new());
    for mut piece in pieces {
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

fn one(text: &[u8]) -> Result<ServerOp, ProtocolError> {
    match decode([text]) {
        (mut said, None) if said.len() == 1 => Ok(said.remove(0)),
        (_, Some(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn message(text: &[u8]) -> (u64, Message) {
    match one(text) {
        Ok(ServerOp::Message(sid, message)) => (sid, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_that_a_server_says() {
    assert_eq!(one(b"PING\r\n"), Ok(ServerOp::Ping));
    assert_eq!(one(b"PONG\r\n"), Ok(ServerOp::Pong));
    assert_eq!(one(b"+OK\r\n"), Ok(ServerOp::Ok));
    for (text, error) in [(&b"-ERR\r\n"[..], ""), (b"-ERR \r\n", ""), (b"-ERR 'a b'\r\n", "a b"), (b"-ERR 'x\r\n", "x")]
    {
        assert_eq!(one(text), Ok(ServerOp::Error(error.into())));
    }
    let info = br#"INFO {"server_name":"n","max_payload":7,"nonce":"abc","ldm":true,"other":[1]}"#;
    let expected = ServerInfo { server_name: "n".into(), max_payload: 7, nonce: "abc".into(), is_lame_duck: true };
    assert_eq!(one(&[&info[..], b"\r\n"].concat()), Ok(ServerOp::Info(Box::new(expected))));
}

#[test]
fn messages_with_all_their_parts() {
    let (sid, plain) = message(b"MSG a.b 18446744073709551615 4\r\nda\r\n\r\n");
    assert_eq!((sid, plain.subject(), plain.reply(), plain.payload()), (u64::MAX, "a.b", None, &b"da\r\n"[..]));
    assert_eq!((plain.headers(), plain.status(), plain.malformed()), (None, None, None));
    let (_, full) = message(b"HMSG a 1  r.s\t31 35\r\nNATS/1.0 100 x y\r\na: b\r\nA:c\r\n\r\ndata\r\n");
    assert_eq!((full.subject(), full.reply(), full.payload()), ("a", Some("r.s"), &b"data"[..]));
    assert_eq!((full.status(), full.description(), full.size()), (Some(100), Some("x y"), 1 + 3 + 35));
    assert_eq!(full.headers().unwrap().iter().collect::<Vec<_>>(), [("a", "b"), ("A", "c")]);
    assert_eq!(full.payload_bytes(), "data");
}

#[test]
fn what_a_publisher_wrote_wrongly_is_a_message_that_says_so() {
    for (text, malformed) in [
        (&b"HMSG a 1 18 19\r\nNATS/1.0 99999\r\n\r\nx\r\n"[..], Malformed::Headers(HeaderError::Status)),
        (b"HMSG a 1 0 1\r\nx\r\n", Malformed::Headers(HeaderError::Version)),
        (b"MSG \xFFa 1 1\r\nx\r\n", Malformed::Subject),
        (b"MSG a 1 b\xC3 1\r\nx\r\n", Malformed::Subject),
    ] {
        let (_, message) = message(text);
        assert_eq!((message.malformed(), message.headers()), (Some(malformed), None));
        assert_eq!(message.payload(), b"x");
        assert!(!message.subject().is_empty());
    }
    let headers = format!("NATS/1.0\r\na: {}\r\n\r\n", "x".repeat(70_000));
    let (_, message) = message(format!("HMSG a 1 {0} {0}\r\n{headers}\r\n", headers.len()).as_bytes());
    assert_eq!(message.malformed(), Some(Malformed::Headers(HeaderError::TooLarge)));
}

#[test]
fn lengths_are_checked_before_anything_is_reserved_for_them() {
    use ProtocolError::{
        Info, LineEnd, LineTooLong, MessageEnd, MessageLine, MessageTooLarge, SubjectTooLong, Unknown,
    };
    let (long, longer) = (format!("MSG {} 1 0\r\n", "x".repeat(8193)), "INFO ".to_owned() + &"x".repeat(65_536));
    let long_reply = format!("MSG a 1 {} 0\r\n", "x".repeat(8193));
    for (text, error) in [
        ("MSG a.b 1 18446744073709551600\r\n", MessageTooLarge),
        ("MSG a.b 1 18446744073709551615\r\n", MessageTooLarge),
        ("MSG a.b 1 18446744073709551616\r\n", MessageLine),
        ("MSG a.b 1 99999999999999999999999\r\n", MessageLine),
        ("MSG a.b 18446744073709551616 1\r\n", MessageLine),
        ("MSG a.b 1 100001\r\n", MessageTooLarge),
        ("HMSG a.b 1 12 18446744073709551612\r\n", MessageTooLarge),
        ("HMSG a.b 1 18446744073709551600 18446744073709551612\r\n", MessageTooLarge),
        ("HMSG a.b 1 18446744073709551600 20\r\n", MessageLine),
        ("HMSG a.b 1 20 10\r\n", MessageLine),
        ("MSG a 1 +1\r\n", MessageLine),
        ("MSG a 1 -1\r\n", MessageLine),
        ("MSG a 1 0x1\r\n", MessageLine),
        ("MSG\r\n", MessageLine),
        ("MSG \r\n", MessageLine),
        ("MSG a 1\r\n", MessageLine),
        ("MSG a b c d e f g\r\n", MessageLine),
        ("HMSG a 1 1\r\n", MessageLine),
        ("MSG a 1 1\r\nxy\r\n", MessageEnd),
        (&long, SubjectTooLong),
        (&long_reply, SubjectTooLong),
        (&longer, LineTooLong),
        ("INFO {\r\n", Info),
        ("INFO\r\n", Info),
        ("PING\n", LineEnd),
        ("PINGS\r\n", Unknown),
        ("\r\n", Unknown),
        ("\u{0}\u{1}\r\n", Unknown),
    ] {
        assert_eq!(one(text.as_bytes()), Err(error), "{}", &text[..text.len().min(80)]);
    }
}

#[test]
fn the_largest_message_has_no_byte_to_spare() {
    let text = format!("MSG a 1 {MAX}\r\n{}\r\n", "x".repeat(MAX));
    let (_, message) = message(text.as_bytes());
    assert_eq!(message.payload().len(), MAX);
}

/// One thing that a server, or something like a server, says.
fn saying() -> impl Strategy<Value = Vec<u8>> {
    let subject = "[a-z.]{1,9}";
    let plain = (subject, any::<u64>(), "([a-z]{1,9})?", proptest::collection::vec(any::<u8>(), 0..300));
    let plain = plain.prop_map(|(subject, sid, reply, payload)| {
        [format!("MSG {subject} {sid} {reply} {}\r\n", payload.len()).as_bytes(), &payload, b"\r\n"].concat()
    });
    let headed = (subject, "(NATS/1.0)?( [0-9]{1,4})?(\r\n[a-z]{0,3}:? [ -~]{0,9}){0,4}(\r\n\r\n)?", 0..70_000usize);
    let headed = headed.prop_map(|(subject, headers, payload)| {
        let (len, total) = (headers.len(), headers.len() + payload);
        format!("HMSG {subject} 7 {len} {total}\r\n{headers}{}\r\n", "x".repeat(payload)).into_bytes()
    });
    let short = proptest::sample::select(vec!["PING\r\n", "PONG\r\n", "+OK\r\n", "-ERR 'x'\r\n", "INFO {}\r\n"]);
    let odd = proptest::collection::vec(any::<u8>(), 0..20);
    prop_oneof![4 => plain, 1 => headed, 3 => short.prop_map(|text| text.as_bytes().to_vec()), 1 => odd]
}

proptest! {
    #[test]
    fn how_the_bytes_are_split_does_not_matter(
        sayings in proptest::collection::vec(saying(), 0..8), sizes in proptest::collection::vec(1..5000usize, 1..9),
    ) {
        let all = sayings.concat();
        let (mut rest, mut pieces, mut sizes) = (&all[..], Vec::new(), sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let whole = decode([&all[..]]);
        prop_assert_eq!(&decode(pieces), &whole);
        if all.len() < 5000 {
            prop_assert_eq!(&decode(all.chunks(1)), &whole);
        }
    }
}
