//! The fuzz target of what a NATS server says, bounded: random bytes, and sayings that were damaged a little.

#![allow(clippy::expect_used)] // a test fails by panicking

#[path = "../fuzz/checks/nats_server.rs"]
mod checks;

use proptest::prelude::*;

/// What sayings are made of.
const PARTS: [&str; 30] = [
    "PING\r\n",
    "PONG\r\n",
    "+OK\r\n",
    "-ERR 'Permissions Violation'\r\n",
    "-ERR\r\n",
    "INFO {\"max_payload\":1,\"nonce\":\"x\"}\r\n",
    "INFO {\r\n",
    "MSG a.b 1 5\r\n",
    "MSG a 18446744073709551615 r.s 5\r\n",
    "MSG a 1 18446744073709551616\r\n",
    "MSG a 1 100001\r\n",
    "MSG a 1 100000\r\n",
    "MSG a\t1  70000\r\n",
    "HMSG a 1 22 27\r\nNATS/1.0\r\nce-id: 1\r\n\r\n",
    "HMSG a 1 r 16 16\r\nNATS/1.0 503\r\n\r\n",
    "HMSG a 1 18 23\r\nNATS/1.0 99999\r\n\r\n",
    "HMSG a 1 21 26\r\nNATS/1.0\r\na: x\r\ny\r\n",
    "HMSG a 1 27 20\r\n",
    "HMSG a 1 70000 70005\r\n",
    "hello",
    "hello\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "1",
    "M",
    "H",
    "\0",
    ":",
];

fn sayings() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        20 => prop::sample::select(&PARTS[..]).prop_map(|part| part.as_bytes().to_vec()),
        2 => prop::collection::vec(any::<u8>(), 5).prop_map(|bytes| [b"MSG a 1 5\r\n", &*bytes, b"\r\n"].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (1usize..110_000).prop_map(|length| vec![b'x'; length]),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn sayings_are_the_same_however_they_come(
        bytes in sayings(),
        pieces in prop::collection::vec(prop_oneof![1usize..8, 1usize..5000], 0..8),
    ) {
        checks::check(&bytes, &pieces);
    }
}

/// Of such lengths that a bound is met in the middle of a piece, and at its ends.
#[test]
fn bounds_are_the_same_however_they_come() {
    for length in [8_191, 8_192, 8_193, 65_530, 65_535, 65_536, 65_537, 99_999, 100_000, 100_001] {
        let filler = "x".repeat(length);
        for bytes in [
            format!("PING\r\n-ERR {filler}\r\nPONG\r\n"),
            format!("PING\r\nMSG {filler} 1 1\r\nx\r\nPONG\r\n"),
            format!("PING\r\nMSG a 1 {length}\r\n{filler}\r\nPONG\r\n"),
            format!("PING\r\nHMSG a 1 {length} {length}\r\n{filler}\r\nPONG\r\n"),
            format!("PING\r\nHMSG a 1 {0} {0}\r\nNATS/1.0\r\na: {filler}\r\n\r\n\r\nPONG\r\n", length + 17),
        ] {
            for pieces in [&[4096][..], &[65_536], &[65_535, 2], &[100, 1]] {
                checks::check(bytes.as_bytes(), pieces);
            }
        }
    }
}
