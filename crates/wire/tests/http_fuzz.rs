//! The fuzz target of responses, bounded: random bytes, and responses that were damaged a little, in random pieces.

#[path = "../fuzz/checks/http_response.rs"]
mod checks;

use proptest::prelude::*;

/// What responses are made of.
const PARTS: [&str; 30] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 099 \r\n",
    "content-length: 5\r\n",
    "content-length: 18446744073709551615\r\n",
    "Content-Length: 0, 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip\r\n",
    "connection: close\r\n",
    "connection: keep-alive\r\n",
    "x: \u{fc}\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "5\r\nhello\r\n",
    "5;ext=1\r\nhello\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "10000000000000000\r\n",
    "trailer: x\r\n",
    "hello",
    ":",
    " ",
    "\0",
    "H",
];

fn response() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        20 => prop::sample::select(&PARTS[..]).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (1usize..40_000).prop_map(|length| vec![b'x'; length]),
    ];
    (any::<bool>(), prop::collection::vec(part, 0..12)).prop_map(|(starts_well, parts)| {
        let mut bytes = if starts_well { b"HTTP/1.1 200 OK\r\n".to_vec() } else { Vec::new() };
        bytes.extend(parts.concat());
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_response_is_the_same_however_it_comes(
        bytes in response(),
        pieces in prop::collection::vec(prop_oneof![1usize..8, 1usize..5000], 0..8),
    ) {
        checks::check(&bytes, &pieces);
    }

    #[test]
    fn bytes_are_the_same_however_they_come(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        pieces in prop::collection::vec(1usize..50, 0..8),
    ) {
        checks::check(&bytes, &pieces);
    }
}

/// Of such lengths that a bound is met in the middle of a piece, and at its ends.
#[test]
fn bounds_are_the_same_however_they_come() {
    let bounds = [(32 << 10) - 60, (32 << 10) - 1, 32 << 10, (32 << 10) + 1, 70_000];
    for length in bounds {
        let filler = "x".repeat(length);
        for bytes in [
            format!("HTTP/1.1 200 OK\r\nx: {filler}\r\ncontent-length: 5\r\n\r\nhello"),
            format!("HTTP/1.1 200 OK\r\nx: {filler}\r\n\0\r\n\r\nhello"),
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;{filler}\r\nhello\r\n0\r\n\r\n"),
            format!("HTTP/1.1 200 {filler}\r\n\r\n"),
        ] {
            for pieces in [&[4096][..], &[32 << 10], &[(32 << 10) - 1, 2], &[100, 1]] {
                checks::check(bytes.as_bytes(), pieces);
            }
        }
    }
}
