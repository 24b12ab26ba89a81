use std::path::Path;

use futures::future::join_all;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::{TopicId, connect, identity, layout};
use tidegate_test_broker::{LIMIT, TestBroker, topic_id};
use time::OffsetDateTime;

use super::*;

const AT: At = (0, 1);
/// Events of which none comes to a member that hears nothing, and to one of four others almost surely one.
const EVENTS: usize = 60;

async fn member(broker: &TestBroker, folder: &Path, renewal: Duration) -> Line {
    let options = connect::options("billing", &broker.servers(), identity::folder(folder)).unwrap();
    let mut line = Line::renewing(Client::connect(options).await.unwrap(), renewal);
    assert!(line.join(AT, "billing", vec![layout::EVENT_SUBJECTS.into()]));
    assert!(line.flush(LIMIT).await);
    line
}

/// Joins while the handler's account is pushed, as when a key is replaced.
async fn members_beside_pushes(broker: &TestBroker, folder: &Path) -> Vec<Line> {
    let (name, uid) = ("billing".to_owned(), "uid-billing".to_owned());
    let guest = tidegate_broker_admin::guests::Handler {
        topic: topic_id(),
        name,
        uid,
        order: Order::None,
        routing: Routing::Direct,
        pods: 10,
    };
    let system = broker.system().await;
    let account = |second| {
        let before = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second);
        broker.authority().handler_account(&guest, Some(before), OffsetDateTime::now_utc()).unwrap()
    };
    let pushing = async {
        for second in 1.. {
            system.push(&account(second)).await.unwrap();
        }
    };
    let members = tokio::select! {
        () = pushing => unreachable!(),
        members = join_all((0..4).map(|_| member(broker, folder, Duration::from_millis(100)))) => members,
    };
    // What the account itself lacks the operator sees to.
    system.ensure(&account(0)).await.unwrap();
    members
}

/// The server has taken in what was published: nobody answers for another topic.
async fn round_trip(ingress: &async_nats::Client) {
    let nobody = TopicSubjects::new(&TopicId::new("test", "nobody").unwrap(), Routing::Queued).event("events.3.t");
    ingress.request(nobody, "x".into()).await.unwrap_err();
}

/// How many of so many events each of them hears.
async fn heard(broker: &TestBroker, members: &mut [Line]) -> Vec<usize> {
    let subject = TopicSubjects::new(&topic_id(), Routing::Direct).event("events.3.t");
    let ingress = broker.ingress().await;
    for _ in 0..EVENTS {
        ingress.publish(subject.clone(), "x".into()).await.unwrap();
    }
    round_trip(&ingress).await;
    let mut heard = Vec::new();
    for line in members {
        // What the server sent before it answers this is here then.
        assert!(line.flush(LIMIT).await);
        let come = std::iter::from_fn(|| line.next_now());
        heard.push(come.filter(|event| matches!(event, LineEvent::Message(..))).count());
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hears_nothing_joins_again() {
    let broker = TestBroker::start_direct().await;
    let folder = broker.direct_handler("billing").await;
    for _ in 0..200 {
        let mut members = members_beside_pushes(&broker, &folder).await;
        let before = heard(&broker, &mut members).await;
        let Some(deaf) = before.iter().position(|&count| count == 0) else { continue };
        let mut member = members.swap_remove(deaf);
        // It alone is left.
        drop(members);
        let renewed = timeout(Duration::from_millis(500), member.next()).await;
        assert!(renewed.is_err(), "nothing was sent meanwhile: {renewed:?}");
        let mut alone = [member];
        let after = heard(&broker, &mut alone).await;
        assert!(after[0] > 0, "{before:?}, and then {after:?}");
        return;
    }
    panic!("no subscription was lost: this server does not need it any more");
}

#[tokio::test]
async fn only_a_silent_member_joins_again_and_it_hears_each_event_once() {
    let broker = TestBroker::start_direct().await;
    let folder = broker.direct_handler("billing").await;
    let mut line = member(&broker, &folder, RENEWAL).await;
    for is_silent in [true, false, true] {
        if !is_silent {
            assert_eq!(heard(&broker, std::slice::from_mut(&mut line)).await, [EVENTS]);
        }
        renew(&line.client, &mut line.inboxes);
        assert_eq!(line.inboxes.len(), if is_silent { 2 } else { 1 });
        assert!(line.flush(LIMIT).await);
        assert!(timeout(Duration::from_millis(100), line.next()).await.is_err(), "the former one ends in silence");
        assert_eq!(line.inboxes.len(), 1);
    }
    assert_eq!(heard(&broker, std::slice::from_mut(&mut line)).await, [EVENTS]);
    assert!(line.drain(AT));
    renew(&line.client, &mut line.inboxes);
    assert!(matches!(timeout(LIMIT, line.next()).await.unwrap(), LineEvent::Closed(AT)));
}
