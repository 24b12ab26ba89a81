//! In the place of the StatefulSet's controller, the kubelet and the storage: real nats-servers that come and go with the
//! pods that the operator wants, and find the configuration that it writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tidegate_broker_admin::membership::{self, Observed, SiteStep};
use tidegate_operator::kubernetes::names;
use tidegate_test_broker::TestBroker;
use tidegate_wire::nats;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::brokers::{Places, run_missing_pods};
use super::{Space, ingress};

/// Servers at most in these tests.
const MOST: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// The servers of the broker `orders`.
pub struct Servers {
    pub broker: Arc<Mutex<TestBroker>>,
    system: nats::Client,
    _kubelet: AbortOnDropHandle<()>,
}

impl Servers {
    /// Looks after these, as many as there are now, until it is dropped.
    pub async fn keep(space: &Space, places: &Places, mut broker: TestBroker) -> Self {
        broker.add_nodes(MOST);
        for routes in 1..=MOST {
            let digests = broker.digests(routes);
            places.set_digests(space, "orders", routes, digests);
        }
        let system = broker.system_client().await;
        let broker = Arc::new(Mutex::new(broker));
        let kubelet = Kubelet { space: space.again(), places: places.clone(), broker: broker.clone() };
        let kubelet = AbortOnDropHandle::new(tokio::spawn(kubelet.run()));
        Self { broker, system, _kubelet: kubelet }
    }

    /// What they say.
    pub async fn observe(&self) -> Option<Observed> {
        let site = self.broker.lock().await.site();
        membership::observe(&self.system, &site).await.ok()
    }

    /// Whether so many are one cluster, and each has a whole copy of every stream.
    pub async fn are_whole(&self, servers: usize) -> bool {
        let site = self.broker.lock().await.site();
        let Some(observed) = self.observe().await else { return false };
        site.pods == servers
            && site.routes == servers
            && observed.is_whole(&site)
            && observed.streams.values().all(|stream| stream.copies == servers && stream.is_settled())
    }
}

struct Kubelet {
    space: Space,
    places: Places,
    broker: Arc<Mutex<TestBroker>>,
}

impl Kubelet {
    async fn run(self) {
        loop {
            self.look().await;
            sleep(PAUSE).await;
        }
    }

    async fn look(&self) {
        let mut broker = self.broker.lock().await;
        let site = broker.site();
        let Some(set) = self.space.api::<StatefulSet>().get_opt("orders-broker").await.expect("read") else { return };
        if let Some(config) = self.space.api::<ConfigMap>().get_opt("orders-broker").await.expect("read") {
            let routes = config.data.expect("data")["nats.conf"].matches(":6222").count();
            if routes != site.routes {
                broker.step(&SiteStep::SetRoutes(routes)).await;
            }
        }
        let wanted = usize::try_from(set.spec.expect("spec").replicas.expect("replicas")).expect("a number");
        self.run_pods(&mut broker, wanted).await;
        self.remove_volumes(&mut broker).await;
        let counts =
            json!({"replicas": wanted, "readyReplicas": wanted, "observedGeneration": set.metadata.generation});
        let sets = self.space.api::<StatefulSet>();
        let patch = Patch::Merge(json!({"status": counts}));
        sets.patch_status("orders-broker", &PatchParams::default(), &patch).await.expect("status");
    }

    async fn run_pods(&self, broker: &mut TestBroker, wanted: usize) {
        for ordinal in 0..wanted {
            let claims = self.space.api::<PersistentVolumeClaim>();
            if claims.get_opt(&claim(ordinal)).await.expect("read").is_none() {
                self.space.create::<PersistentVolumeClaim>(volume(ordinal)).await;
            }
        }
        let before = broker.pods();
        if wanted != before {
            broker.step(&SiteStep::SetPods(wanted)).await;
            self.places.set(&self.space, "orders", broker.servers()[..wanted].to_vec());
        }
        run_missing_pods(&self.space, "orders").await;
        for ordinal in before..wanted {
            ingress::serve_in(&self.space, broker, "orders", ordinal);
        }
        let pods: Api<Pod> = self.space.api();
        for ordinal in wanted..MOST {
            let _ = pods.delete(&format!("orders-broker-{ordinal}"), &DeleteParams::default().grace_period(0)).await;
        }
    }

    /// A claim that somebody deleted goes when its pod has gone.
    async fn remove_volumes(&self, broker: &mut TestBroker) {
        let claims: Api<PersistentVolumeClaim> = self.space.api();
        for claim in claims.list(&ListParams::default()).await.expect("list").items {
            let ordinal: usize =
                claim.name_any().rsplit('-').next().and_then(|number| number.parse().ok()).expect("a number");
            if claim.metadata.deletion_timestamp.is_some() && ordinal >= broker.pods() {
                let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                let _ = claims.patch(&claim.name_any(), &PatchParams::default(), &free).await;
            }
        }
        let kept = claims.list(&ListParams::default()).await.expect("list").items;
        let site = broker.site();
        for ordinal in site.volumes.into_iter().filter(|ordinal| *ordinal >= site.pods) {
            if !kept.iter().any(|kept| kept.name_any() == claim(ordinal)) {
                broker.step(&SiteStep::RemoveVolume(ordinal)).await;
            }
        }
    }
}

/// The claim of a server.
pub fn claim(ordinal: usize) -> String {
    format!("data-orders-broker-{ordinal}")
}

fn volume(ordinal: usize) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim(ordinal), "labels": names::broker_selector("orders")},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    })
}

/// Names of the claims that are there.
pub async fn claims(space: &Space) -> Vec<String> {
    let claims: Api<PersistentVolumeClaim> = space.api();
    claims.list(&ListParams::default()).await.expect("list").items.iter().map(|claim| claim.name_any()).collect()
}
