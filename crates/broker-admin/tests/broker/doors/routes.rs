//! A leaf that was made for something else does not join the brokers.

use std::time::Duration;

use tidegate_broker_admin::Usage;
use tidegate_broker_client::identity::file;
use tidegate_test_broker::TestBroker;

use crate::doors::stranger::Stranger;

#[tokio::test]
async fn only_a_leaf_of_the_routes_own_authority_joins() {
    let broker = TestBroker::start_cluster().await;
    let folder = tempfile::tempdir().unwrap();
    let routes = broker.monitoring("routez").await;
    let peers: std::collections::BTreeSet<_> =
        routes["routes"].as_array().unwrap().iter().map(|route| route["remote_name"].as_str().unwrap()).collect();
    assert_eq!(peers.len(), 2, "three brokers form a cluster: {routes}");

    let with_leaf = |name: &str, leaf: tidegate_broker_admin::Leaf| {
        let identity = folder.path().join(format!("leaf-{name}"));
        std::fs::create_dir_all(&identity).unwrap();
        std::fs::write(identity.join(file::CERTIFICATE), leaf.certificate).unwrap();
        std::fs::write(identity.join(file::KEY), leaf.key).unwrap();
        identity
    };
    let now = time::OffsetDateTime::now_utc();
    let request = |hosts: &[&str], usage| tidegate_broker_admin::LeafRequest {
        name: "stranger".into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        usage,
    };
    let (authority, peer) = (broker.authority(), Usage::Peer);
    let both = Usage::ServerAndClient;
    let strangers = [
        ("handler", broker.handler("billing", Duration::from_secs(5)).await),
        ("publisher", broker.publisher("sensors").await),
        ("ingress", broker.ingress_client_dir()),
        ("broker-client-port", broker.server_identity_dir()),
        ("same-names", with_leaf("same-names", authority.leaf(&request(&["localhost"], both), now).unwrap())),
        (
            "client-names",
            with_leaf("client-names", authority.issuers.clients.leaf(&request(&["localhost"], peer), now).unwrap()),
        ),
        ("other-names", with_leaf("other-names", authority.leaf(&request(&["elsewhere"], peer), now).unwrap())),
    ];
    for (name, identity) in &strangers {
        let stranger = Stranger::start(&broker, folder.path(), name, identity);
        assert!(!stranger.joins(&broker).await, "{name} is a member of the cluster");
    }
    let member = with_leaf("member", authority.leaf(&request(&["localhost"], peer), now).unwrap());
    let member = Stranger::start(&broker, folder.path(), "member", &member);
    assert!(member.joins(&broker).await, "the attempt itself is right:\n{}", member.log());
}
