//! A topic over volumes that an earlier one of its name left.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use time::OffsetDateTime;

use crate::support::Space;
use crate::support::operator::{Operator, turn};
use crate::topic::{condition, until_reason};
use crate::topic_trouble::volume;

fn kept(size: &str) -> Value {
    let mut claim = volume("orders");
    claim["spec"]["resources"]["requests"]["storage"] = json!(size);
    claim
}

async fn topic_over(space: &Space, kept_size: &str, wanted: &str) {
    space.create::<PersistentVolumeClaim>(kept(kept_size)).await;
    // Its keys are kept with the volume.
    let authority = Authority::generate("orders", OffsetDateTime::now_utc()).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-authority"},
        "stringData": tidegate_operator::authority::to_data(&authority),
    });
    space.create::<Secret>(secret).await;
    space.topic("orders", json!({"broker": {"storage": {"size": wanted}}})).await;
}

/// On f49a93a the streams were to shrink to the new size, which the broker refused without end.
#[tokio::test]
async fn a_smaller_size_than_the_volume_has_is_refused_in_words() {
    let _turn = turn().await;
    let space = Space::new("shrink").await;
    topic_over(&space, "10Gi", "5Gi").await;
    let _operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "VolumesDiffer").await;
    let message = condition(&topic, "Stalled").unwrap().message;
    assert!(message.contains("data-orders-broker-0") && message.contains("cannot be made smaller"), "{message}");
}

/// On f49a93a the broker was to store 95 % of 20Gi on a volume of 10Gi.
#[tokio::test]
async fn the_volumes_real_size_counts() {
    let _turn = turn().await;
    let space = Space::new("larger").await;
    topic_over(&space, "10Gi", "20Gi").await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    let config: ConfigMap = space.api().get("orders-broker").await.unwrap();
    let config: Value = serde_json::from_str(&config.data.unwrap()["nats.conf"]).unwrap();
    let store = config["jetstream"]["max_file_store"].as_u64().unwrap();
    assert!(store <= (10 << 30) / 100 * 95, "{store} bytes of a volume of 10Gi");
}
