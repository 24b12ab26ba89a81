//! The answer to a publisher of what is stored: the sequence, and whether it was there already.

use http::StatusCode;
use tidegate_test_broker::TestBroker;

use crate::device::{Device, binary};
use crate::support::{Answer, event, start};

/// The headers: sequence, duplicate, duplicates.
fn receipt(answer: &Answer) -> [Option<&str>; 3] {
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    ["tidegate-sequence", "tidegate-duplicate", "tidegate-duplicates"]
        .map(|name| answer.headers.get(name).map(|value| value.to_str().unwrap()))
}

#[tokio::test]
async fn a_publish_is_told_its_sequence_and_a_repetition_that_it_is_one() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    assert_eq!(receipt(&ingress.publish(&event("1")).await), [Some("1"), None, None]);
    assert_eq!(receipt(&ingress.publish(&event("2")).await), [Some("2"), None, None]);
    assert_eq!(receipt(&ingress.publish(&event("1")).await), [Some("1"), Some("true"), None]);
}

#[tokio::test]
async fn a_batch_is_told_its_highest_sequence_and_how_many_are_repetitions() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let batch = |ids: &[&str]| ids.iter().map(|id| event(id)).collect::<Vec<_>>();
    let publish = async |ids: &[&str]| ingress.publish_batch(&batch(ids)).await;
    assert_eq!(receipt(&publish(&["1", "2", "3"]).await), [Some("3"), None, None]);
    assert_eq!(receipt(&publish(&["4", "1", "2"]).await), [Some("4"), None, Some("2")]);
    assert_eq!(receipt(&publish(&["1", "2"]).await), [Some("2"), Some("true"), Some("2")]);
    assert_eq!(receipt(&publish(&["1"]).await), [Some("1"), Some("true"), None], "a batch of one is one");
    assert_eq!(receipt(&publish(&[]).await), [None, None, None]);
}

#[tokio::test]
async fn a_device_with_mqtt_5_is_told_the_same() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (mut device, _) = Device::v5(&ingress, 60).await;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.receipt().await, [pair("tidegate-sequence", "1")]);
    device.send(binary(2, &event("1"))).await;
    assert_eq!(device.receipt().await, [pair("tidegate-sequence", "1"), pair("tidegate-duplicate", "true")]);
}

/// MQTT 5, 3.1.2.11.7: a device that wants no problem information gets no user properties but with CONNACK and
/// DISCONNECT.
#[tokio::test]
async fn a_device_that_wants_to_read_nothing_is_told_nothing() {
    use mqtt_protocol_core::mqtt::packet::{RequestProblemInformation, v5_0};
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let connect = v5_0::Connect::builder().props(vec![RequestProblemInformation::new(0).unwrap().into()]);
    let stream = ingress.connect_to(ingress.mqtt, b"mqtt").await;
    let (mut device, _) = Device::greet_v5(stream, connect.build().unwrap()).await;
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.receipt().await, []);
}

/// Nothing is stored there, so there is no sequence.
#[tokio::test]
async fn a_direct_topic_gives_no_receipt() {
    let broker = TestBroker::start_direct().await;
    let ingress = start(&broker).await;
    assert_eq!(receipt(&ingress.publish(&event("1")).await), [None, None, None]);
    let (mut device, _) = Device::v5(&ingress, 60).await;
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.receipt().await, []);
}
