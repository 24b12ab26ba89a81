//! Conversations with a session, well-meant and not.

use super::*;
use mqtt_protocol_core::mqtt::packet::{ContentType, SubEntry, SubOpts};
use proptest::prelude::*;

const EVENT: &[u8] = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;

const BOUNDS: Bounds =
    Bounds { packet: 1 << 16, greeting: 1 << 16, receive_maximum: 8, silence: Duration::from_secs(600) };

/// What a device of each version sends, packet by packet.
fn conversations() -> [Vec<Vec<u8>>; 2] {
    let topic = || SubEntry::new("a/#", SubOpts::new()).unwrap();
    let content_type = vec![ContentType::new("application/cloudevents+json").unwrap().into()];
    let v5 = [
        Packet::from(v5_0::Connect::builder().keep_alive(60).build().unwrap()),
        v5_0::Publish::builder()
            .topic_name("a")
            .unwrap()
            .qos(Qos::AtLeastOnce)
            .packet_id(1)
            .props(content_type)
            .payload(EVENT)
            .build()
            .unwrap()
            .into(),
        v5_0::Subscribe::builder().packet_id(2).entries(vec![topic()]).build().unwrap().into(),
        v5_0::Pingreq::builder().build().unwrap().into(),
    ];
    let v3 = [
        Packet::from(v3_1_1::Connect::builder().client_id("x").unwrap().keep_alive(60).build().unwrap()),
        v3_1_1::Publish::builder()
            .topic_name("a")
            .unwrap()
            .qos(Qos::AtLeastOnce)
            .packet_id(1)
            .payload(EVENT)
            .build()
            .unwrap()
            .into(),
        v3_1_1::Subscribe::builder().packet_id(2).entries(vec![topic()]).build().unwrap().into(),
        v3_1_1::Pingreq::builder().build().unwrap().into(),
    ];
    [v5, v3].map(|packets| packets.iter().map(Packet::to_continuous_buffer).collect())
}

/// All steps of these bytes, given in pieces of this size; each event is settled at once.
fn converse(bytes: &[u8], piece: usize) -> Vec<Step> {
    let mut session = Session::new(BOUNDS);
    let mut all = Vec::new();
    let mut input = BytesMut::new();
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        while !input.is_empty() && !session.closed {
            let before = input.len();
            let mut steps = session.received(&mut input);
            assert!(input.len() < before, "no progress");
            if steps.iter().any(|step| matches!(step, Step::Authenticate(_))) {
                steps.extend(session.authenticated(Ok(BOUNDS.packet)));
            }
            let arrived: Vec<_> = steps
                .iter()
                .filter_map(|step| match step {
                    Step::Arrived(arrival) => Some(arrival.packet_id),
                    _ => None,
                })
                .collect();
            for packet_id in arrived {
                steps.extend(session.settled(packet_id, Ok(Stored::default())));
            }
            all.extend(steps);
        }
    }
    all
}

fn shape(steps: &[Step]) -> String {
    let letter = |step: &Step| match step {
        Step::Write(bytes) => char::from_digit(u32::from(bytes[0] >> 4), 16).unwrap(),
        Step::Authenticate(_) => 'P',
        Step::Connected(_) => 'C',
        Step::Arrived(_) => 'A',
        Step::Close => 'X',
    };
    steps.iter().map(letter).collect()
}

#[test]
fn a_conversation_goes_the_same_way_in_pieces_of_any_size() {
    for packets in conversations() {
        let bytes = packets.concat();
        for piece in [1, 2, 3, 7, 64, bytes.len()] {
            // Password, CONNACK, connected; event, PUBACK; SUBACK; PINGRESP.
            assert_eq!(shape(&converse(&bytes, piece)), "P2CA49d", "pieces of {piece}");
        }
    }
}

#[test]
fn nothing_is_done_before_it_is_known_who_connects() {
    for packets in conversations() {
        let mut session = Session::new(BOUNDS);
        let mut input = BytesMut::from(&packets.concat()[..]);
        assert_eq!(shape(&session.received(&mut input)), "P");
        assert_eq!(shape(&session.received(&mut input)), "X", "an event before the answer");
        assert_eq!(shape(&session.authenticated(Ok(BOUNDS.packet))), "X", "and no answer after it");
    }
}

#[test]
fn a_refusal_has_the_code_of_its_version() {
    let problem = Problem::unauthenticated(None);
    for (refusal, v5, v3) in
        [(Refusal::Busy, 0x89, 3), (Refusal::NotAuthenticated, 0x86, 4), (Refusal::NotAllowed, 0x87, 5)]
    {
        for (packets, code) in conversations().iter().zip([v5, v3]) {
            let mut session = Session::new(BOUNDS);
            session.received(&mut BytesMut::from(&packets[0][..]));
            let steps = session.authenticated(Err((refusal, &problem)));
            let Some(Step::Write(connack)) = steps.first() else { panic!("{steps:?}") };
            // Type, length (one byte, or two where there is a reason), flags, code.
            let length = if connack[1] & 0x80 != 0 { 2 } else { 1 };
            assert_eq!((connack[0], connack[1 + length + 1]), (0x20, code), "{refusal:?}");
            assert!(steps.iter().all(|step| !matches!(step, Step::Connected(_))));
        }
    }
}

#[test]
fn nothing_is_done_before_connect_and_nothing_after_the_end() {
    for packets in conversations() {
        assert_eq!(shape(&converse(&packets[1], 64)), "X");
        let garbage = [&packets[0][..], &[0xF7, 0], &packets[1]].concat();
        assert!(shape(&converse(&garbage, 64)).ends_with('X'), "{}", shape(&converse(&garbage, 64)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A panic in the library would end the ingress: whatever comes, there is none, and no endless loop.
    #[test]
    fn no_bytes_break_it(
        which in 0..2usize, at in any::<prop::sample::Index>(), new in any::<Vec<u8>>(), cut in 0..8usize,
        piece in 1..64usize,
    ) {
        let mut bytes = conversations()[which].concat();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, new);
        converse(&bytes, piece);
    }

    #[test]
    fn no_garbage_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        for packets in conversations() {
            converse(&bytes, 64);
            converse(&[&packets[0][..], &bytes].concat(), 64);
        }
    }
}
