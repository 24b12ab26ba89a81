//! Keys of users that are replaced, against a real nats-server.

use std::time::Duration;

use async_nats::connection::State;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::{LeafRequest, UserKey};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::identity::{Identity, Source};
use tidegate_broker_client::{identity, peer};
use tidegate_test_broker::{TestBroker, eventually, topic_id};
use time::OffsetDateTime;

const HANDOVER: Duration = Duration::from_secs(60);

fn consumers() -> consumers::Handler {
    consumers::Handler {
        name: "billing".into(),
        uid: "uid-billing".into(),
        ack_wait: Duration::from_secs(5),
        max_ack_pending: 64,
        types: Vec::new(),
        start: Start::Latest,
        order: Order::None,
        is_suspended: false,
        is_draining: false,
    }
}

/// An identity that stays as it was when its files are replaced: as somebody has it who copied them.
fn copied(folder: impl Into<std::path::PathBuf>) -> Source {
    let copy: Identity = identity::folder(folder)().unwrap();
    std::sync::Arc::new(move || Ok(copy.clone()))
}

async fn is_let_in(broker: &TestBroker, identity: Source) -> bool {
    peer::connect("x", &broker.servers(), identity).await.is_ok()
}

#[tokio::test]
async fn a_replaced_key_works_until_it_is_refused_and_then_its_connections_end() {
    let broker = TestBroker::start().await;
    let folder = broker.handler_with(consumers()).await;
    let stolen = copied(&folder);
    let guest = TestBroker::guest_of(&consumers());
    let thief = peer::connect("thief", &broker.servers(), stolen.clone()).await.unwrap();
    let now = OffsetDateTime::now_utc();
    // What was signed last is of this second, and is refused with the rest.
    let stolen_jwt = stolen().unwrap().user_jwt;
    let first = UserKey::first(None, None, now).unwrap();
    let second = first.for_request(Some("leak"), &stolen_jwt, HANDOVER, now + 2 * HANDOVER).unwrap();
    let issued = second.record.issued.unwrap();
    assert_eq!(broker.hand_out(&guest, &second), folder);
    assert!(is_let_in(&broker, identity::folder(&folder)).await, "it is used before the old one is refused");
    assert!(is_let_in(&broker, stolen.clone()).await, "and both work");
    let own = peer::connect("own", &broker.servers(), identity::folder(&folder)).await.unwrap();
    broker.refuse_before(&guest, issued).await;
    eventually("the thief is cut off", async || thief.connection_state() != State::Connected).await;
    assert!(!is_let_in(&broker, stolen).await);
    assert!(is_let_in(&broker, identity::folder(&folder)).await);
    assert_eq!(own.connection_state(), State::Connected, "the new one's connection stays");
}

/// Its account is the one of before: the key is another one, and what was signed before is refused.
#[tokio::test]
async fn a_publisher_that_is_named_again_has_another_key_and_the_old_one_is_of_no_use() {
    let broker = TestBroker::start().await;
    let stolen = copied(broker.publisher("web").await);
    let (topic, authority) = (topic_id(), broker.authority());
    broker.system().await.remove_publisher(authority, &topic, "web").await.unwrap();
    assert!(!is_let_in(&broker, stolen.clone()).await);
    let key = UserKey::first(None, None, OffsetDateTime::now_utc() + Duration::from_secs(2)).unwrap();
    let now = key.record.issued.unwrap();
    let refused = key.record.refused_before(HANDOVER, now);
    let account = authority.publisher_account(&topic, "web", refused, now).unwrap();
    broker.system().await.ensure(&account).await.unwrap();
    let user = authority.publisher_user(&topic, "web", &key, now).unwrap();
    let leaf = LeafRequest::client("publisher/web");
    let leaf = authority.leaf(&leaf, now).unwrap();
    let again = Identity {
        ca: authority.trusted_servers(),
        certificate: leaf.certificate,
        key: leaf.key,
        user_jwt: user.jwt,
        user_seed: user.seed,
    };
    assert!(is_let_in(&broker, std::sync::Arc::new(move || Ok(again.clone()))).await);
    assert!(!is_let_in(&broker, stolen).await);
}
