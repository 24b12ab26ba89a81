//! One operator works, the others wait: a Lease in the release's namespace, and one for the cluster.
//!
//! Pods of one release contend for the first; its holder contends for the second with those of other releases, which
//! would undo each other's work ([`crate::kubernetes::claim`]).
//!
//! The algorithm is client-go's. The holder renews the lease; a waiter takes it when it was given back, or
//! when it has not changed for its whole duration by the waiter's own clock (clocks of nodes differ). Every
//! write carries the resource version, so of two that take it at once only one does. A holder that cannot
//! renew stops leading before another one may begin.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::Args;
use crate::kubernetes::names::FIELD_MANAGER;

/// A lease that has not changed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that has not renewed for this long no longer leads. Shorter than [`DURATION`].
const DEADLINE: Duration = Duration::from_secs(10);
/// The holder renews this often.
const RENEWAL: Duration = Duration::from_secs(5);
/// A waiter looks this often; so does a holder that failed to renew.
const LOOK: Duration = Duration::from_secs(2);
/// No request, and no giving back, takes longer.
const REQUEST: Duration = Duration::from_secs(5);
/// Name of the Lease of one release, in its namespace.
pub const LEASE: &str = "tidegate-operator";
const CLUSTER_LEASE: &str = "tidegate";

/// Whether this operator leads. Dropping it gives the lease back, if the process lives on; [`Leadership::leave`]
/// waits for that.
pub struct Leadership {
    leads: watch::Receiver<bool>,
    holder: watch::Receiver<Option<String>>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Leadership {
    /// Takes part in the election.
    ///
    /// # Errors
    /// The lease cannot be read.
    pub async fn join(client: Client, args: &Args) -> Result<Self, kube::Error> {
        Self::contend(Api::namespaced(client, &args.pod_namespace), LEASE, args.pod_name.clone()).await
    }

    /// The same for the whole cluster.
    ///
    /// # Errors
    /// The lease cannot be read.
    pub async fn join_cluster(client: Client, args: &Args) -> Result<Self, kube::Error> {
        let me = format!("{}/{}", args.pod_namespace, args.pod_name);
        Self::contend(Api::namespaced(client, &args.cluster_lease_namespace), CLUSTER_LEASE, me).await
    }

    async fn contend(api: Api<Lease>, lease: &'static str, me: String) -> Result<Self, kube::Error> {
        // Missing rights are better told now than in a log line every two seconds.
        api.get_opt(lease).await?;
        let (told, leads) = watch::channel(false);
        let (tell_holder, holder) = watch::channel(None);
        let stop = CancellationToken::new();
        let election = Election { api, lease, me, seen: None, held_since_renewal: None, told, tell_holder };
        let task = tokio::spawn(election.run(stop.clone()));
        Ok(Self { leads, holder, stop: stop.drop_guard(), task })
    }

    /// The other operator that holds the lease.
    pub fn holder(&self) -> Option<String> {
        self.holder.borrow().clone()
    }

    /// Waits until this operator leads.
    pub async fn won(&mut self) {
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            // The election has ended without us.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until it no longer does.
    pub async fn lost(&mut self) {
        // An election that has ended is a loss too.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the lease back, so that the next operator need not wait for its end. Bounded in time.
    pub async fn leave(self) {
        drop(self.stop);
        if timeout(REQUEST * 2, self.task).await.is_err() {
            tracing::warn!("the lease was not given back: it ends by itself");
        }
    }
}

struct Election {
    api: Api<Lease>,
    lease: &'static str,
    me: String,
    /// The lease's version, and since when it has been that.
    seen: Option<(String, Instant)>,
    /// We lead; when the last renewal began.
    held_since_renewal: Option<Instant>,
    told: watch::Sender<bool>,
    tell_holder: watch::Sender<Option<String>>,
}

impl Election {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = self.round().await;
            let until = Instant::now() + pause;
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(self.deadline().map_or(until, |deadline| until.min(deadline))) => {}
            }
        }
        if self.held_since_renewal.is_some()
            && let Err(error) = timeout(REQUEST, self.give_back()).await.unwrap_or(Ok(()))
        {
            tracing::warn!(%error, "the lease was not given back: it ends by itself");
        }
    }

    /// From then on somebody else may lead.
    fn deadline(&self) -> Option<Instant> {
        self.held_since_renewal.map(|renewed| renewed + DEADLINE)
    }

    /// Looks, and takes or renews. Returns how long to wait before the next time.
    async fn round(&mut self) -> Duration {
        let now = Instant::now();
        let deadline = self.deadline().map_or(now + REQUEST, |deadline| deadline.min(now + REQUEST));
        match timeout_at(deadline, self.attempt()).await {
            Ok(Ok(holds)) => self.held_since_renewal = holds.then_some(now),
            Ok(Err(error)) => tracing::warn!(%error, "lease"),
            Err(_) => tracing::warn!("lease: no answer"),
        }
        if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.held_since_renewal = None;
        }
        let leads = self.held_since_renewal.is_some();
        self.told.send_if_modified(|told| std::mem::replace(told, leads) != leads);
        if self.held_since_renewal == Some(now) { RENEWAL } else { LOOK }
    }

    /// Returns whether we hold the lease now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(self.lease).await? else {
            return self.create().await;
        };
        let version = lease.resource_version().unwrap_or_default();
        let now = Instant::now();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version.clone(), now));
        }
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| now.duration_since(*since));
        let decision = decide(&lease, &self.me, unchanged);
        let other = holder(&lease).filter(|_| decision == Decision::Wait).map(str::to_owned);
        self.tell_holder.send_if_modified(|told| {
            *told != other && {
                *told = other;
                true
            }
        });
        match decision {
            Decision::Wait => Ok(false),
            // A conflict is not a loss: something that does not hold the lease touched it. Look again.
            Decision::Renew => self.write(&version, json!({"renewTime": time()})).await.map(|_| true),
            Decision::Take { transitions } => {
                let mut spec = holding(&self.me);
                spec["leaseTransitions"] = json!(transitions);
                won(self.write(&version, spec).await)
            }
        }
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.lease.to_owned());
        lease.spec = serde_json::from_value(holding(&self.me)).map_err(kube::Error::SerdeError)?;
        won(self.api.create(&PostParams::default(), &lease).await)
    }

    async fn write(&self, version: &str, spec: Value) -> Result<Lease, kube::Error> {
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.api.patch(self.lease, &params, &Patch::Merge(patch)).await
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let lease = self.api.get(self.lease).await?;
        if holder(&lease) == Some(&self.me) {
            let version = lease.resource_version().unwrap_or_default();
            self.write(&version, json!({"holderIdentity": null, "renewTime": time()})).await?;
        }
        Ok(())
    }
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Somebody else's.
    Wait,
    /// Ours.
    Renew,
    /// Free: the new number of changes of its holder.
    Take { transitions: i32 },
}

fn decide(lease: &Lease, me: &str, unchanged: Duration) -> Decision {
    let spec = lease.spec.as_ref();
    let duration = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0).saturating_add(1);
    match holder(lease) {
        Some(holder) if holder == me => Decision::Renew,
        // Another pod of this release, which has the release's own lease no more: it does not work.
        Some(holder) if release(holder).is_some_and(|other| release(me) == Some(other)) => {
            Decision::Take { transitions }
        }
        Some(_) if unchanged < duration.map_or(DURATION, Duration::from_secs) => Decision::Wait,
        _ => Decision::Take { transitions },
    }
}

/// The namespace of a holder of the cluster's lease.
fn release(holder: &str) -> Option<&str> {
    holder.split_once('/').map(|(namespace, _)| namespace)
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn holding(me: &str) -> Value {
    json!({
        "holderIdentity": me, "leaseDurationSeconds": DURATION.as_secs(),
        "acquireTime": time(), "renewTime": time(),
    })
}

fn time() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}

/// A conflict means that another one was first.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(spec: Value, unchanged_seconds: u64) -> Decision {
        let lease: Lease = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        decide(&lease, "me", Duration::from_secs(unchanged_seconds))
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_and_only_then() {
        let other = json!({"holderIdentity": "other", "leaseDurationSeconds": 15, "leaseTransitions": 4});
        assert_eq!(decided(other.clone(), 14), Decision::Wait);
        assert_eq!(decided(other, 15), Decision::Take { transitions: 5 });
        assert_eq!(decided(json!({"holderIdentity": "me", "leaseDurationSeconds": 15}), 99), Decision::Renew);
        for free in [json!({}), json!({"holderIdentity": ""}), json!({"leaseDurationSeconds": 15})] {
            assert_eq!(decided(free.clone(), 0), Decision::Take { transitions: 1 }, "{free}");
        }
    }

    #[test]
    fn the_clusters_lease_goes_from_pod_to_pod_of_a_release_at_once_and_to_another_release_only_when_it_is_free() {
        let decided = |holder: &str| {
            let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 15});
            let lease: Lease = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            decide(&lease, "a/pod-2", Duration::ZERO)
        };
        assert_eq!(decided("a/pod-2"), Decision::Renew);
        assert_eq!(decided("a/pod-1"), Decision::Take { transitions: 1 });
        for other in ["b/pod-1", "aa/pod-1", "pod-1", "a"] {
            assert_eq!(decided(other), Decision::Wait, "{other}");
        }
    }

    #[test]
    fn a_holder_stops_before_the_next_may_begin() {
        assert!(DEADLINE + LOOK < DURATION && RENEWAL + LOOK < DEADLINE);
    }
}
