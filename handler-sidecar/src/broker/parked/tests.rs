//! What is asked about parked keys, on a real server, with the rights of a handler.

use std::time::Duration;

use bytes::Bytes;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::held_key::Mark;
use tidegate_broker_client::{connect, identity, layout};
use tidegate_delivery_core::{ParkedKeys, Tenancy};
use tidegate_test_broker::TestBroker;
use tidegate_wire::nats::{Client, HeaderBlock, Message, Publish};

use super::copies::{self, First};
use super::lease::{self, Replaced};
use super::list::{Listing, MAX_KEYS, Section, Step};
use super::mark;

const HANDLER: &str = "billing";
const LIMIT: Duration = Duration::from_secs(10);

/// A handler's connection.
async fn handler(broker: &TestBroker) -> Client {
    let handler = consumers::Handler {
        name: HANDLER.to_owned(),
        uid: "uid".to_owned(),
        ack_wait: Duration::from_secs(5),
        max_ack_pending: 64,
        types: Vec::new(),
        start: Start::Latest,
        order: Order::Key { lanes: 2 },
        is_suspended: false,
        is_draining: false,
    };
    let folder = broker.handler_with(handler).await;
    let options = connect::options("test", &broker.servers(), identity::folder(folder)).unwrap();
    Client::connect(options).await.unwrap()
}

async fn ask(client: &Client, subject: &str, body: &[u8]) -> Message {
    client.request(&Publish { subject, payload: body, ..Publish::default() }, LIMIT).await.unwrap()
}

/// Puts the copy of an event there.
async fn park(client: &Client, lane: u16, key: u64, sequence: u64) {
    let mut headers = HeaderBlock::new();
    headers.append("Tidegate-Sequence", &sequence.to_string()).unwrap();
    let subject = layout::parked_subject(HANDLER, lane, key);
    let copy = Publish { subject: &subject, headers: Some(&headers), payload: b"{}", ..Publish::default() };
    crate::broker::publish_ack::sequence(&client.request(&copy, LIMIT).await.unwrap()).unwrap();
}

/// Marks a key as held; whether it is marked then.
async fn hold(client: &Client, lane: u16, key: u64) -> bool {
    let mark = mark::over_none(&Mark::default()).unwrap();
    let answer = client.request(&mark.message(&layout::held_subject(HANDLER, lane, key)), LIMIT).await.unwrap();
    mark::is_there(&answer)
}

async fn list(client: &Client, lane: u16) -> ParkedKeys {
    list_section(client, lane, Section::ALL).await
}

async fn list_section(client: &Client, lane: u16, section: Section) -> ParkedKeys {
    let mut listing = Listing::new(HANDLER, lane, section);
    loop {
        let answer = ask(client, &layout::local_retry_info_subject(HANDLER), &listing.request()).await;
        match listing.heard(answer.payload()).unwrap() {
            Step::Ask(next) => listing = next,
            Step::Over(keys) => return keys,
        }
    }
}

async fn take(client: &Client, owner: &str, over: u64) -> Tenancy {
    let record = lease::record(owner, false, over).unwrap();
    let answer = client.request(&record.message(&layout::lease_subject(HANDLER, 1)), LIMIT).await.unwrap();
    match lease::replaced(&answer).unwrap() {
        Replaced::By(sequence) => Tenancy::Ours(sequence),
        Replaced::Outrun => {
            lease::found(&ask(client, &layout::lease_read_subject(HANDLER, 1), b"").await, owner).unwrap()
        }
    }
}

#[tokio::test]
async fn the_keys_of_a_lane_are_listed_with_those_that_are_held() {
    let broker = TestBroker::start().await;
    let client = handler(&broker).await;
    assert_eq!(list(&client, 0).await, ParkedKeys { keys: Vec::new(), are_all: true, count: 0 });
    for (lane, key, sequence) in [(0, 7, 1), (1, 9, 2), (0, 7, 3), (0, u64::MAX, 4)] {
        park(&client, lane, key, sequence).await;
    }
    let keys = |keys: &[(u64, bool)]| ParkedKeys { keys: keys.to_vec(), are_all: true, count: keys.len() as u64 };
    assert_eq!(list(&client, 0).await, keys(&[(7, false), (u64::MAX, false)]));
    assert!(hold(&client, 0, 7).await);
    assert_eq!(list(&client, 0).await, keys(&[(7, true), (u64::MAX, false)]));
    assert_eq!(list(&client, 1).await, keys(&[(9, false)]), "another lane");
}

/// An answer with all of very many keys would be too much for a sidecar, and is not asked for.
#[tokio::test]
async fn very_many_keys_are_listed_by_sections() {
    let broker = TestBroker::start().await;
    let client = handler(&broker).await;
    // All but the last 500 are in one section, and the last ones in another.
    let count = MAX_KEYS as u64 + 500;
    let key = |number: u64| if number < MAX_KEYS as u64 { number } else { 0xab << 56 | number };
    for key in (0..count).map(key) {
        let subject = layout::parked_subject(HANDLER, 0, key);
        client.publish(&Publish { subject: &subject, ..Publish::default() }).await.unwrap();
    }
    park(&client, 0, MAX_KEYS as u64, 1).await;
    assert!(hold(&client, 0, 3).await && hold(&client, 0, key(count - 1)).await);
    let told = list(&client, 0).await;
    assert_eq!(told, ParkedKeys { keys: Vec::new(), are_all: false, count: count + 1 });
    let sections = |keys| std::iter::successors(Some(Section::first_of(keys, MAX_KEYS)), |section| section.next());
    for keys in [count, u64::MAX] {
        let of_last = sections(keys).find(|section| section.has(key(count - 1))).unwrap();
        let told = list_section(&client, 0, of_last).await;
        let expected = (MAX_KEYS as u64..count).map(|number| (key(number), number == count - 1));
        assert_eq!(told, ParkedKeys { keys: expected.collect(), are_all: true, count: 500 });
    }
    // More than a list takes: the last ones.
    let told = list_section(&client, 0, Section::first_of(count, MAX_KEYS)).await;
    let expected = (1..=MAX_KEYS as u64).map(|key| (key, key == 3));
    assert_eq!(told, ParkedKeys { keys: expected.collect(), are_all: false, count: MAX_KEYS as u64 + 1 });
}

#[tokio::test]
async fn what_is_parked_last_of_a_key_is_found() {
    let broker = TestBroker::start().await;
    let client = handler(&broker).await;
    let subject = layout::local_retry_read_subject(HANDLER);
    let last = async || {
        let request = copies::read_last(&layout::parked_subject(HANDLER, 0, 7));
        copies::last(ask(&client, &subject, &request).await.payload())
    };
    assert_eq!(last().await, Some(0));
    for (key, sequence) in [(7, 41), (7, 43), (8, 44)] {
        park(&client, 0, key, sequence).await;
    }
    assert_eq!(last().await, Some(43));
    let first = ask(&client, &subject, &copies::read(&layout::parked_subject(HANDLER, 0, 7))).await;
    let First::Copy(first) = copies::first(first.payload()) else { panic!("{first:?}") };
    let remove: Bytes = copies::remove(first.place);
    assert!(copies::is_removed(ask(&client, &layout::local_retry_delete_subject(HANDLER), &remove).await.payload()));
    assert_eq!(last().await, Some(43));
}

/// A key that is marked is not marked again, however late; one that was released is, and at once.
#[tokio::test]
async fn a_key_is_marked_once() {
    let broker = TestBroker::start().await;
    let client = handler(&broker).await;
    let shelf = layout::retry_stream(HANDLER);
    let marks =
        async || broker.admin().next_message(&shelf, &layout::held_subjects(HANDLER, Some(0)), 1).await.unwrap();
    assert!(hold(&client, 0, 7).await);
    let first = marks().await.unwrap().sequence;
    assert!(hold(&client, 0, 7).await, "it is there");
    assert!(
        broker
            .admin()
            .next_message(&shelf, &layout::held_subjects(HANDLER, Some(0)), first + 1)
            .await
            .unwrap()
            .is_none()
    );
    broker.admin().delete_message(&shelf, first).await.unwrap();
    assert!(marks().await.is_none());
    assert!(hold(&client, 0, 7).await);
    assert!(marks().await.unwrap().sequence > first);
}

#[tokio::test]
async fn of_two_owners_one_has_the_lease() {
    let broker = TestBroker::start().await;
    let client = handler(&broker).await;
    let (one, other) = tokio::join!(take(&client, "one", 0), take(&client, "other", 0));
    let (winner, loser, Tenancy::Ours(sequence)) = (match one {
        Tenancy::Ours(_) => ("one", "other", one),
        _ => ("other", "one", other),
    }) else {
        panic!("{one:?} {other:?}")
    };
    let anothers = |sequence| Tenancy::Other { sequence, is_free: false };
    assert!([one, other].contains(&anothers(sequence)), "{one:?} {other:?}");
    // It is renewed; whoever compares with the record before loses.
    let Tenancy::Ours(renewed) = take(&client, winner, sequence).await else { panic!("not renewed") };
    assert_eq!(take(&client, loser, sequence).await, anothers(renewed));
    // The answer was lost: the record says that it is the winner's own.
    assert_eq!(take(&client, winner, sequence).await, Tenancy::Other { sequence: renewed, is_free: true });
    // Taken over, which its owner learns by the next renewal.
    let Tenancy::Ours(taken) = take(&client, loser, renewed).await else { panic!("not taken over") };
    assert_eq!(take(&client, winner, renewed).await, anothers(taken));
    // Given up, without an answer.
    let free = lease::record(loser, true, taken).unwrap();
    client.publish(&free.message(&layout::lease_subject(HANDLER, 1))).await.unwrap();
    let Tenancy::Other { sequence: freed, is_free: true } = take(&client, winner, taken).await else {
        panic!("it is not free")
    };
    assert!(matches!(take(&client, winner, freed).await, Tenancy::Ours(_)));
}

/// The stream of attempts drops its oldest messages when it is full, and all after a day.
#[tokio::test]
async fn a_record_that_made_room_for_others_is_none() {
    let broker = TestBroker::start().await;
    let client = handler(&broker).await;
    let Tenancy::Ours(sequence) = take(&client, "one", 0).await else { panic!("not taken") };
    broker.admin().delete_message(&layout::attempt_stream(HANDLER), sequence).await.unwrap();
    assert_eq!(take(&client, "one", sequence).await, Tenancy::Other { sequence: 0, is_free: false });
    assert!(matches!(take(&client, "other", 0).await, Tenancy::Ours(taken) if taken > sequence));
}
