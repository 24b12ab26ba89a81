//! What a server stores of an account, and what it serves, against a real nats-server.

use std::time::{Duration, Instant};

use async_nats::{Client, RequestErrorKind};
use tidegate_broker_admin::accounts::Account;
use tidegate_broker_admin::push::{AccountState, PushError};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::{TopicId, identity, peer};
use tidegate_test_broker::{LIMIT, TestBroker, eventually, topic, topic_id};
use time::OffsetDateTime;

async fn ingress(broker: &TestBroker) -> Client {
    peer::connect("ingress", &broker.servers(), identity::folder(broker.ingress_client_dir())).await.unwrap()
}

/// Stores an account without telling the server: as it is left where it was pushed while the server loaded a former one.
fn store(broker: &TestBroker, account: &Account) {
    let file = broker.data().join("accounts").join(format!("{}.jwt", account.id));
    assert!(file.exists(), "the server stores accounts elsewhere");
    std::fs::write(file, &account.jwt).unwrap();
}

/// Seen once in 1,100 times where an account was pushed while three clients connected to it for the first time.
#[tokio::test]
async fn an_account_that_is_stored_and_not_served_is_pushed_again() {
    let broker = TestBroker::start().await;
    let late = TopicId::new("shop", "late").unwrap();
    broker.add_topic(&late, topic()).await;
    broker.close_topic(&late).await;
    let client = ingress(&broker).await;
    let topics = [(topic_id(), Routing::Queued), (late.clone(), Routing::Queued)];
    let account = broker.authority().ingress_account(&topics, OffsetDateTime::now_utc()).unwrap();
    store(&broker, &account);

    let event = TopicSubjects::new(&late, Routing::Queued).event("events.3.t");
    for client in [&client, &ingress(&broker).await] {
        let refused = client.request(event.clone(), "x".into()).await.unwrap_err();
        assert_eq!(refused.kind(), RequestErrorKind::NoResponders, "whoever connects anew has the same");
    }
    let system = broker.system().await;
    assert!(system.ensure(&account).await.unwrap().is_pushed(), "the server does not serve what it stores");
    client.request(event, "x".into()).await.expect("stored");
    assert_eq!(system.ensure(&account).await.unwrap(), AccountState::InForce, "it does now");
}

/// What it imports is not there, and one push more does not bring it. With each the server looks for it, and answers nothing
/// meanwhile.
#[tokio::test]
async fn an_account_that_stays_incomplete_is_pushed_again_after_pauses_that_grow() {
    let broker = TestBroker::start().await;
    let late = TopicId::new("shop", "late").unwrap();
    let topics = [(topic_id(), Routing::Queued), (late.clone(), Routing::Queued)];
    let account = || broker.authority().ingress_account(&topics, OffsetDateTime::now_utc()).unwrap();
    let _client = ingress(&broker).await;
    let (system, observer) = (broker.system().await, broker.system_client().await);
    let mut pushes = observer.subscribe("$SYS.REQ.CLAIMS.UPDATE", None).unwrap();
    observer.flush().await.unwrap();
    let mut waits = 0;
    let looks = async {
        loop {
            match system.ensure(&account()).await {
                Ok(AccountState::InForce) => panic!("it imports from an account that is not there"),
                Ok(AccountState::NotServed { .. }) => waits += 1,
                Ok(AccountState::Pushed) | Err(PushError::Incomplete { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let four_pushes = async {
        let mut times = Vec::new();
        while times.len() < 4 {
            pushes.next().await.expect("connected");
            times.push(Instant::now());
        }
        times
    };
    let times = tokio::select! {
        times = tokio::time::timeout(2 * LIMIT, four_pushes) => times.expect("four pushes"),
        () = looks => unreachable!(),
    };
    for (pair, seconds) in times.windows(2).zip([1, 2, 4]) {
        let pause = pair[1] - pair[0];
        // Both are seen a moment after they were made.
        assert!(pause >= Duration::from_millis(seconds * 1000 - 300), "{pause:?} instead of {seconds} s");
    }
    assert!(waits > 0);

    let late = broker.authority().topic_account(&late, Routing::Queued, None, OffsetDateTime::now_utc()).unwrap();
    eventually("its account is there", async || system.ensure(&late).await.is_ok()).await;
    eventually("it is pushed once more, and is whole", async || {
        system.ensure(&account()).await.is_ok_and(|state| state == AccountState::InForce)
    })
    .await;
}

#[tokio::test]
async fn an_account_that_nobody_uses_is_not_pushed_again() {
    let mut broker = TestBroker::start().await;
    let account = broker.authority().publisher_account(&topic_id(), "shop", None, OffsetDateTime::now_utc()).unwrap();
    assert!(broker.system().await.ensure(&account).await.unwrap().is_pushed(), "it is new");
    for is_restarted in [false, true] {
        if is_restarted {
            broker.restart().await;
        }
        assert_eq!(broker.system().await.ensure(&account).await.unwrap(), AccountState::InForce, "{is_restarted}");
    }
}
