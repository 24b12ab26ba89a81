//! What a topic publishes by itself, and takes for later, on its broker.

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_client::later;
use tidegate_crds::EventTopic;
use tidegate_test_broker::TopicHandle;

use crate::support::brokers::{Places, account, server, topic_with};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};

fn schedule(name: &str, cron: &str) -> Value {
    json!({"name": name, "cron": cron, "event": {"type": "report.due", "source": "/schedules"}})
}

/// The names of the schedules that the broker has; `None`: there is no stream for them.
async fn on_broker(topic: &TopicHandle) -> Option<Vec<String>> {
    tidegate_test_broker::jetstream(topic.operator.clone()).get_stream(later::STREAM).await.ok()?;
    let (mut names, mut from) = (Vec::new(), 1);
    while let Ok(Some(message)) = topic.admin.next_message(later::STREAM, later::SCHEDULE_SUBJECTS, from).await {
        from = message.sequence + 1;
        names.extend(later::schedule_name(&message.subject).map(str::to_owned));
    }
    Some(names)
}

#[tokio::test]
async fn the_schedules_of_a_topic_are_on_its_broker_and_what_it_refuses_is_told() {
    let _turn = turn().await;
    let (space, places) = (Space::new("schedules").await, Places::default());
    let broker = server().await;
    let never = schedule("never", "0 0 31 2 *");
    let spec = json!({"schedules": [never, schedule("nightly", "0 2 * * *")]});
    topic_with(&space, &places, &broker, "orders", spec).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    let topics: Api<EventTopic> = space.api();
    let told = async |reason: &str| {
        eventually(&format!("StreamReady says {reason}"), async || {
            let status = topics.get("orders").await.ok()?.status?;
            let found = status.conditions.into_iter().find(|found| found.type_ == "StreamReady")?;
            (found.reason == reason && found.status == "True").then_some(found.message)
        })
        .await
    };
    let why = told("ScheduleRefused").await;
    let topic = account(&space, &broker, "orders").await;
    assert!(why.contains("schedule never: ") && why.contains("Correct its cron"), "{why}");
    assert_eq!(on_broker(&topic).await.unwrap(), ["nightly"]);
    let change = async |spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        topics.patch("orders", &PatchParams::default(), &patch).await.unwrap();
    };
    change(json!({"schedules": [schedule("weekly", "0 2 * * mon")], "delayedEvents": {}})).await;
    told("Configured").await;
    eventually("weekly alone", async || (on_broker(&topic).await? == ["weekly"]).then_some(())).await;
    change(json!({"schedules": null, "delayedEvents": null})).await;
    eventually("no schedules", async || on_broker(&topic).await.is_none_or(|names| names.is_empty()).then_some(()))
        .await;
    operator.stop().await;
}
