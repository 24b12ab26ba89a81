//! `rateLimit` over several sidecars.

use std::time::Duration;

use tidegate_broker_client::contract::{Rate, Sidecar};
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

use crate::support::{Container, HANDLER, Running, all_settled, config, eventually, free_port, in_flight, publish_all};

const ACK_WAIT: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

async fn limited(broker: &TestBroker, port: u16, events: u32, per: Duration) -> Sidecar {
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut config = config(broker, identity, port, ACK_WAIT);
    config.delivery.rate = Some(Rate { events, per });
    config
}

#[tokio::test]
async fn two_sidecars_share_a_limit() {
    let broker = TestBroker::start().await;
    let containers = [Container::start().await, Container::start().await];
    let config = limited(&broker, containers[0].port, 100, SECOND).await;
    let mut twin = Sidecar { admin_port: free_port(), ..config.clone() };
    twin.delivery.port = containers[1].port;
    let sidecars = [Running::ready(config).await, Running::ready(twin).await];
    // They have heard of each other.
    sleep(SECOND * 2).await;
    publish_all(&broker, (0..500).map(|i| i.to_string())).await;
    all_settled(&broker).await;
    let mut times: Vec<_> = containers.iter().flat_map(Container::received).map(|received| received.at).collect();
    times.sort();
    assert_eq!(times.len(), 500, "none twice");
    // That no second has too many is shown where the clock is the test's own. Here requests may have waited in their
    // sockets, but over the whole time the limit shows: without a common one it takes half as long.
    let took = times[times.len() - 1] - times[0];
    assert!(took >= SECOND * 4, "500 at 100 a second took {took:?}");
    assert!(took < SECOND * 20, "the limit is used: {took:?}");
    assert!(containers.iter().all(|container| container.count() > 150), "both work");
    for sidecar in sidecars {
        sidecar.terminate().await;
    }
}

#[tokio::test]
async fn what_has_no_turn_soon_is_not_pulled() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = limited(&broker, container.port, 1, SECOND * 4).await;
    publish_all(&broker, (0..10).map(|i| i.to_string())).await;
    let sidecar = Running::ready(config).await;
    // Longer than ack_wait: what waits here for its turn is renewed.
    eventually("three came", async || container.count() == 3).await;
    let received = container.received();
    let gaps = received.windows(2).map(|two| two[1].at - two[0].at);
    // One may have waited in its socket for a moment.
    assert!(gaps.clone().all(|gap| gap >= SECOND * 3), "{:?}", gaps.collect::<Vec<_>>());
    assert!(received.iter().all(|received| received.header("ce-tidegateattempt") == "1"));
    assert!(in_flight(&broker).await <= 2, "{}", in_flight(&broker).await);
    assert_eq!(crate::support::consumer(&broker).await.cached_info().num_redelivered, 0);
    // A drain does not wait for turns.
    sidecar.terminate().await;
}
