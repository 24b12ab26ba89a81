//! Running servers take renewed certificates, and no connection ends.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_broker_admin::membership::{CertificateEnds, reload_certificates};
use tidegate_test_broker::{TestBroker, eventually};
use time::OffsetDateTime;

/// The numbers of all routes of all servers.
async fn routes(broker: &TestBroker) -> BTreeSet<(usize, u64)> {
    let mut found = BTreeSet::new();
    for server in 0..3 {
        let page = broker.monitoring_at(server, "routez").await;
        let all = page["routes"].as_array().cloned().unwrap_or_default();
        found.extend(all.iter().filter_map(|route| Some((server, route["rid"].as_u64()?))));
    }
    found
}

#[tokio::test]
async fn servers_take_renewed_certificates_and_no_connection_ends() {
    let broker = TestBroker::start_cluster().await;
    let (system, site) = (broker.system_client().await, broker.site());
    let client = broker.operator();
    let connects = client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    let before = routes(&broker).await;
    assert!(before.len() >= 6, "{before:?}");
    let reload_before =
        async |wanted, before| reload_certificates(&system, &site, wanted, before).await.unwrap().behind;
    let reload = async |wanted| reload_before(wanted, None).await;
    // They are told to read what has not come yet.
    let nothing = CertificateEnds::default();
    let behind = reload(nothing).await;
    assert_eq!(behind.len(), 3);
    let used = *behind.values().next().unwrap();
    assert!(
        used.clients.is_some() && used.routes.is_some() && behind.values().all(|other| *other == used),
        "{behind:?}"
    );
    assert_eq!(reload(used).await.len(), 0, "what they use is wanted");

    // A file that is none changes nothing.
    broker.damage_certificate();
    assert_eq!(reload(nothing).await.len(), 3);
    assert_eq!(reload(used).await.len(), 0);

    let later = |end: Option<OffsetDateTime>| end.map(|end| end + Duration::from_secs(60));
    let renewed = CertificateEnds { clients: later(used.clients), routes: later(used.routes) };
    broker.bring_certificates(renewed);
    // Not told: theirs last for longer than that.
    for _ in 0..3 {
        assert_eq!(reload_before(renewed, used.first()).await.len(), 3);
    }
    assert_eq!(reload_before(renewed, later(used.first())).await.len(), 3, "they were told just now");
    eventually("all use it", async || reload_before(renewed, used.first()).await.is_empty()).await;
    client.flush().await.unwrap();
    assert_eq!(client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed), connects);
    assert_eq!(system.current_link().epoch, 1);
    assert_eq!(routes(&broker).await, before, "nor does a route");
    // And it is what those who connect now are shown.
    broker.operator_at(0).await.flush().await.unwrap();
    let lines = broker.log();
    assert!(lines.contains("Reloaded"), "{lines}");
}
