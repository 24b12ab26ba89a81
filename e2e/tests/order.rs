//! Events of a key stay in order while pods come and go, and while one of them waits for a person.

use serde_json::json;
use tidegate_crds::handler::ReleasePhase;

use crate::harness::objects::handler;
use crate::harness::world;

#[tokio::test]
async fn events_of_a_key_stay_in_order_while_pods_come_go_and_die() {
    world("order", async |world| {
        world.begin(1).await;
        let ordered = |replicas: i32| {
            let delivery = json!({"order": "Key", "lanes": 4});
            handler("worker", &["--delay-ms", "5"], json!({"replicas": replicas, "delivery": delivery}))
        };
        world.accept(ordered(1)).await;
        world.handler_ready("worker").await;
        world.publish_keys("keyed", 4000, 50).await;
        let received = async |share: u64| {
            let what = format!("{share} events");
            world.until(&what, 120, async || (world.report().await?.seen >= share).then_some(())).await;
        };
        received(300).await;
        world.accept(ordered(4)).await;
        received(1200).await;
        let pods = world.pods("tidegate.io/handler=worker").await;
        world.delete_pod(&pods[0]).await;
        received(2000).await;
        world.accept(ordered(2)).await;
        let report = world.all_received(4000, 240).await;
        println!("e2e: ordered: {report:?}");
        assert_eq!((report.missing, report.unknown, report.disordered, report.repeated), (0, 0, 0, 0));
    })
    .await;
}

/// A key whose event is refused is held, and no other. One change repairs the handler and releases the key.
#[tokio::test]
async fn a_held_key_continues_in_order_when_a_person_releases_it() {
    world("held", async |world| {
        world.begin(1).await;
        let parking = json!({"order": "Key", "lanes": 2, "retry": {"onExhausted": "Park"}});
        let refusing = handler("worker", &["--refuse-key", "key-1"], json!({"delivery": parking}));
        world.accept(refusing).await;
        world.handler_ready("worker").await;
        world.publish_keys("keyed", 40, 4).await;
        let held = world.until("30 events, and a held key in the status", 90, async || {
            let retries = world.handler("worker").await.status?.retries?;
            let (is_held, seen) = (retries.held_keys == Some(1), world.report().await?.seen);
            (is_held && seen == 30).then_some(retries)
        });
        let retries = held.await;
        let (key, reason) = (retries.held[0].key.as_deref(), retries.held[0].reason.as_deref());
        assert_eq!((key, reason), (Some("key-1"), Some("refused-by-handler")), "{retries:?}");
        world.condition::<tidegate_crds::EventHandler>("worker", "KeysHeld", "True", 30).await;
        world
            .accept(handler(
                "worker",
                &[],
                json!({"delivery": parking, "release": {"request": "mended", "keys": ["key-1"]}}),
            ))
            .await;
        let report = world.all_received(40, 120).await;
        assert_eq!((report.missing, report.unknown, report.disordered, report.repeated), (0, 0, 0, 0));
        let done = world.until("the release in the handler's status", 30, async || {
            let release = world.handler("worker").await.status?.release?;
            (release.phase == ReleasePhase::Done).then_some(release)
        });
        assert_eq!(done.await.released, 1);
        world.condition::<tidegate_crds::EventHandler>("worker", "KeysHeld", "False", 90).await;
        assert_eq!(world.handler("worker").await.status.unwrap().dead_letters.unwrap_or(0), 0);
    })
    .await;
}
