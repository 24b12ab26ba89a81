//! A broker over volumes that an earlier one of its name left.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use kube::api::PostParams;
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_operator::kubernetes::names;
use time::OffsetDateTime;

use crate::broker::{condition, until_broker};
use crate::support::Space;
use crate::support::brokers::keys_api;
use crate::support::operator::{Operator, turn};
use crate::topic::until_reason;
use crate::topic_trouble::volume;

fn kept(size: &str) -> Value {
    let mut claim = volume("default");
    claim["spec"]["resources"]["requests"]["storage"] = json!(size);
    claim
}

async fn topic_over(space: &Space, kept_size: &str, wanted: &str) {
    space.create::<PersistentVolumeClaim>(kept(kept_size)).await;
    // Its keys are kept with the volume.
    let authority = Authority::generate("default", OffsetDateTime::now_utc()).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": names::authority("default", &space.name)},
        "stringData": tidegate_operator::identity::keys::to_data(&authority),
    });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    keys_api(space).create(&PostParams::default(), &secret).await.unwrap();
    space.broker("default", json!({"storage": {"size": wanted}})).await;
    space.topic("orders", json!({})).await;
}

/// On f49a93a the streams were to shrink to the new size, which the broker refused without end.
#[tokio::test]
async fn a_smaller_size_than_the_volume_has_is_refused_in_words() {
    let _turn = turn().await;
    let space = Space::new("shrink").await;
    topic_over(&space, "10Gi", "5Gi").await;
    let _operator = Operator::start(space.client.clone());
    let broker = until_broker(&space, "default", "Ready", "VolumesDiffer").await;
    let message = condition(&broker, "Stalled").unwrap().message;
    assert!(message.contains("data-default-broker-0") && message.contains("cannot be made smaller"), "{message}");
    // Its topics say so, too: nothing happens until a person does something.
    let topic = until_reason(&space, "orders", "Stalled", "VolumesDiffer").await;
    let found = crate::topic::condition(&topic, "Stalled").unwrap();
    assert!(found.status == "True" && found.message.contains("cannot be made smaller"), "{}", found.message);
}

/// On f49a93a the broker was to store 95 % of 20Gi on a volume of 10Gi.
#[tokio::test]
async fn the_volumes_real_size_counts() {
    let _turn = turn().await;
    let space = Space::new("larger").await;
    topic_over(&space, "10Gi", "20Gi").await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    let config: ConfigMap = space.api().get("default-broker").await.unwrap();
    // JSON but for the name, which the server looks up.
    let text = config.data.unwrap()["nats.conf"].replace("$SERVER_NAME", "\"b-0\"");
    let config: Value = serde_json::from_str(&text).unwrap();
    let store = config["jetstream"]["max_file_store"].as_u64().unwrap();
    assert!(store <= (10 << 30) / 100 * 95, "{store} bytes of a volume of 10Gi");
}

/// What is promised may not be more than that either.
#[tokio::test]
async fn no_more_is_promised_than_the_volume_has() {
    let _turn = turn().await;
    let space = Space::new("promised").await;
    topic_over(&space, "10Gi", "20Gi").await;
    space.topic("large", json!({"retention": {"maxSize": "10Gi"}})).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "large", "Ready", "BrokerFull").await;
}
