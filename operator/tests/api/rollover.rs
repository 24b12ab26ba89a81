//! Other certificate authorities take the place of a broker's, on a real nats-server, by an operator that may end at any
//! write of its keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::Api;
use serde_json::{Value, json};
use tidegate_broker_client::contract::Report;
use tidegate_broker_client::identity::{Identity, Source, file};
use tidegate_broker_client::outcomes::Outcomes;
use tidegate_broker_client::{layout, peer};
use tidegate_crds::broker::{RolloverStage, RolloverStatus};
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tidegate_operator::context::Context;
use tidegate_operator::identity::keys;
use tidegate_operator::kubernetes::names;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::broker::condition;
use crate::handler::until_reason;
use crate::restarts::formed;
use crate::support::brokers::{self, Places, status, topic_at, until_ready};
use crate::support::ingress::generation;
use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually};
use crate::topic;
use crate::validation_handler::{handler, spec};

/// A rollover takes about half a minute here, on a busy machine several times that.
const ROLLOVER: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(200);
const SIDECAR: &str = "billing-0";

struct World {
    space: Space,
    places: Places,
    server: TestBroker,
    _kubelet: AbortOnDropHandle<()>,
}

impl World {
    /// The broker `orders`, with a topic, a handler of which a pod runs, and a publisher over NATS.
    async fn start(purpose: &str, mut server: TestBroker) -> (Self, Operator) {
        let (space, places) = (Space::new(purpose).await, Places::default());
        server.seed().unwrap();
        server.wake();
        assert!(server.serves_within(LIMIT).await, "{}", server.log());
        server.push_ingress_account().await;
        let first = formed(&space, &places, &server, 1).await;
        first.stop().await;
        let kubelet = AbortOnDropHandle::new(tokio::spawn(kubelet(space.again(), server.certificate_folders())));
        let world = Self { space, places, server, _kubelet: kubelet };
        let operator = world.operator();
        topic_at(&world.space, "orders", "orders", json!({"publishers": [{"nats": "web"}]})).await;
        until_ready(&world.space, "orders").await;
        world.space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
        until_reason(&world.space, "Subscribed", "Subscribed").await;
        world.run_sidecar().await;
        (world, operator)
    }

    fn operator(&self) -> Operator {
        self.operator_of(self.space.client.clone())
    }

    fn operator_of(&self, client: kube::Client) -> Operator {
        let context =
            Context::new(client, args("operator-0", "default")).with_broker_addresses(self.places.addresses());
        Operator::run(context.with_server_digests(self.places.digests()))
    }

    /// Makes the pod, and says that its sidecar runs.
    async fn run_sidecar(&self) {
        let container = json!({"name": "tidegate-sidecar", "image": "i", "restartPolicy": "Always"});
        self.space
            .create::<Pod>(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": SIDECAR, "labels": {names::HANDLER_LABEL: "billing"}},
                "spec": {"initContainers": [container], "containers": [{"name": "app", "image": "i"}]},
            }))
            .await;
        let running = json!([{
            "name": "tidegate-sidecar", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "started": true,
            "state": {"running": {}},
        }]);
        status::<Pod>(&self.space, SIDECAR, json!({"phase": "Running", "initContainerStatuses": running})).await;
    }

    /// Reports as the sidecar does, over a connection that is made with what its Secret has then.
    fn report(&self) -> AbortOnDropHandle<()> {
        let (secrets, servers) = (self.space.api::<Secret>(), self.server.servers());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                sleep(PAUSE).await;
                let generation = generation(&secrets, "billing-identity").await;
                let Ok(client) = peer::connect("sidecar", &servers, copied(&secrets, "billing-identity").await).await
                else {
                    continue;
                };
                let report = Report {
                    pod: SIDECAR.into(),
                    outage: None,
                    workload: None,
                    exposed: None,
                    loopback_only: false,
                    outcomes: Outcomes::default(),
                    generation,
                };
                let payload = serde_json::to_vec(&report).unwrap();
                client.publish(layout::report_subject("billing"), payload.into()).await.unwrap();
                client.flush().await.unwrap();
            }
        }))
    }

    /// What is in a Secret now, as somebody has it who copied it.
    async fn copied(&self, secret: &str) -> Source {
        copied(&self.space.api(), secret).await
    }

    async fn is_let_in(&self, identity: &Source) -> bool {
        peer::connect("copy", &self.server.servers(), identity.clone()).await.is_ok()
    }

    async fn give_publishers(&self, grace: &str) {
        self.space.merge::<EventBroker>("orders", json!({"spec": {"rollover": {"publisherGrace": grace}}})).await;
    }

    /// A topic of another namespace that was on the broker, and is not granted it any more.
    async fn withdrawn_topic(&self) -> Space {
        let web = Space::new("web").await;
        let grant = async |from: &str| {
            self.space.merge::<EventBroker>("orders", json!({"spec": {"topics": {"from": from}}})).await;
        };
        grant("All").await;
        topic_at(&web, "orders", "far", json!({"broker": {"namespace": self.space.name}})).await;
        topic::until_reason(&web, "far", "StreamReady", "Configured").await;
        grant("Same").await;
        topic::until_reason(&web, "far", "Granted", "NotAllowedByBroker").await;
        web
    }

    async fn rotate(&self, request: &str) {
        let annotations = json!({"metadata": {"annotations": {"tidegate.io/rotate": request}}});
        self.space.merge::<EventBroker>("orders", annotations).await;
    }

    async fn rollover(&self) -> Option<RolloverStatus> {
        self.space.api::<EventBroker>().get("orders").await.ok()?.status?.certificates?.rollover
    }

    async fn is_settled(&self, generation: i64) -> bool {
        self.rollover().await.is_some_and(|it| it.stage == RolloverStage::Settled && it.generation == generation)
    }

    async fn until_settled(&self, generation: i64) {
        let begun = Instant::now();
        while !self.is_settled(generation).await {
            let broker: EventBroker = self.space.api().get("orders").await.unwrap();
            assert!(begun.elapsed() < ROLLOVER, "{:#?}\n{}", condition(&broker, "RollingOver"), self.server.log());
            sleep(PAUSE).await;
        }
    }

    async fn until_said(&self, says: &str) {
        eventually(says, async || {
            let broker: EventBroker = self.space.api().get("orders").await.ok()?;
            condition(&broker, "RollingOver")?.message.contains(says).then_some(())
        })
        .await;
    }

    /// Nothing is left of the authorities that were there before, and all that was made from the new ones is used.
    async fn assert_replaced(&self, old: &[Source]) {
        let authority = keys::from_secret(&brokers::keys(&self.space, "orders").await.unwrap()).unwrap();
        let before = self.server.authority();
        assert!(authority.issuers.are_separate());
        assert_eq!(authority.root, before.root);
        for (new, old) in [
            (&authority.issuers.servers, &before.issuers.servers),
            (&authority.issuers.clients, &before.issuers.clients),
            (&authority.issuers.routes, &before.issuers.routes),
        ] {
            assert_ne!(new.certificate, old.certificate);
        }
        let public: ConfigMap = self.space.api().get("orders-ca").await.unwrap();
        assert_eq!(public.data.unwrap()["ca.crt"], authority.issuers.servers.certificate);
        let topic: EventTopic = self.space.api().get("orders").await.unwrap();
        assert_eq!(topic.status.unwrap().address.unwrap().ca_certs, Some(authority.issuers.servers.certificate));
        for name in ["billing-identity", "orders-publisher-web"] {
            assert!(self.is_let_in(&self.copied(name).await).await, "{name}");
        }
        for old in old {
            assert!(!self.is_let_in(old).await);
            // It is the certificate that is refused: with another one the same user is let in.
            let (old, new) = (old().unwrap(), (self.copied("billing-identity").await)().unwrap());
            let mixed = Identity { user_jwt: old.user_jwt, user_seed: old.user_seed, ..new };
            assert!(self.is_let_in(&(Arc::new(move || Ok(mixed.clone())) as Source)).await);
        }
    }
}

async fn copied(secrets: &Api<Secret>, name: &str) -> Source {
    let data = secrets.get(name).await.unwrap().data.unwrap();
    let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
    let identity = Identity {
        ca: text(file::CA),
        certificate: text(file::CERTIFICATE),
        key: text(file::KEY),
        user_jwt: text(file::USER_JWT),
        user_seed: text(file::USER_SEED),
    };
    Arc::new(move || Ok(identity.clone()))
}

/// Brings the servers' Secrets to their folders, for as long as it runs.
async fn kubelet(space: Space, folders: [PathBuf; 2]) {
    let mut brought: BTreeMap<PathBuf, Value> = BTreeMap::new();
    loop {
        for (folder, secret) in folders.iter().zip([names::broker("orders"), names::routes("orders")]) {
            let Ok(Some(secret)) = space.api::<Secret>().get_opt(&secret).await else { continue };
            let data = secret.data.unwrap();
            let seen = json!(data);
            if brought.get(folder) == Some(&seen) {
                continue;
            }
            // A real one brings all at once. The certificate comes last: what is with it is there before it.
            for name in [file::CA, file::KEY, file::CERTIFICATE] {
                tokio::fs::write(folder.join(name), &data[name].0).await.unwrap();
            }
            brought.insert(folder.clone(), seen);
        }
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_are_replaced_once_for_each_request() {
    let _turn = turn().await;
    let (world, operator) = World::start("rollover", TestBroker::unformed_as("orders-broker", 1)).await;
    let old = [world.copied("billing-identity").await, world.copied("orders-publisher-web").await];
    assert!(world.is_settled(0).await);
    let _withdrawn = world.withdrawn_topic().await;
    world.give_publishers("20s").await;
    world.rotate("leak-1").await;
    // Of a sidecar that does not say what it has it is not known whether it trusts the next ones.
    world.until_said(&format!("waiting for sidecars: {}/{SIDECAR}", world.space.name)).await;
    assert_eq!(world.rollover().await.unwrap().stage, RolloverStage::Trusting);
    for old in &old {
        assert!(world.is_let_in(old).await);
    }
    let _reports = world.report();
    world.until_said("publishers have until").await;
    world.until_settled(3).await;
    assert_eq!(world.rollover().await.unwrap().request.as_deref(), Some("leak-1"));
    world.assert_replaced(&old).await;
    let told = [world.space.events("RolloverBegun").await, world.space.events("RolloverDone").await];
    assert!(told.iter().all(|told| told.len() == 1) && told[0][0].contains("leak-1"), "{told:?}");
    let broker: EventBroker = world.space.api().get("orders").await.unwrap();
    assert_eq!(condition(&broker, "RollingOver"), None);
    world.rotate("").await;
    world.rotate("leak-1").await;
    sleep(Duration::from_secs(3)).await;
    assert!(world.is_settled(3).await, "the same request asks for nothing");
    operator.stop().await;
}

/// A broker of an earlier version, by operators each of which dies before or after its first write of the keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_two_authorities_has_three_whatever_its_operators_die_at() {
    let _turn = turn().await;
    let server = TestBroker::unformed_of_earlier_version("orders-broker");
    let (world, operator) = World::start("rollover-crash", server).await;
    let _reports = world.report();
    world.until_said("publishers have until").await;
    operator.kill().await;
    world.give_publishers("1s").await;
    let path = format!("/secrets/{}", names::authority("orders", &world.space.name));
    let mut deaths = 0;
    while !world.is_settled(3).await && deaths < 20 {
        let moment = if deaths % 3 == 0 { Moment::Before } else { Moment::After };
        let interruption = Interruption::of_path(path.clone(), 1, moment);
        let operator = world.operator_of(interruption.client());
        let reached = interruption.reached().await;
        operator.kill().await;
        if !reached {
            break;
        }
        deaths += 1;
        // Whatever it left behind, all are let in with what they have.
        for name in ["billing-identity", "orders-publisher-web"] {
            assert!(
                world.is_let_in(&world.copied(name).await).await,
                "{name} after {deaths}: {:?}",
                world.rollover().await
            );
        }
    }
    let operator = world.operator();
    world.until_settled(3).await;
    world.assert_replaced(&[]).await;
    assert!(deaths >= 6, "{deaths}");
    operator.stop().await;
}
