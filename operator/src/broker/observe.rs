//! What there is of a broker.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use tidegate_broker_admin::Authority;
use tidegate_crds::EventBroker;
use time::OffsetDateTime;

use crate::broker::volumes::Volume;
use crate::broker::waiting;
use crate::context::{Context, Owner};
use crate::identity::keys;
use crate::identity::user_keys::request_of;
use crate::kubernetes::apply::current;
use crate::kubernetes::names;
use crate::kubernetes::pods::{self, Trouble};
use crate::kubernetes::watches::Stores;
use crate::reconcile::error::Error;
use crate::sessions::brokers::BrokerKey;

/// What there is of a broker.
#[derive(Clone, Default)]
pub struct Observed {
    /// The root of trust.
    pub authority: Option<Authority>,
    /// The version of the Secret that has it.
    pub authority_version: Option<String>,
    /// The broker's certificate.
    pub broker_secret: Option<Secret>,
    /// The ingress's certificate and user.
    pub ingress_secret: Option<Secret>,
    /// The brokers' certificate for their routes.
    pub routes_secret: Option<Secret>,
    /// The StatefulSet.
    pub statefulset: Option<StatefulSet>,
    /// The broker pods.
    pub pods: Vec<Pod>,
    /// What keeps pods from being made, from having their volumes, or from running.
    pub trouble: Option<Trouble>,
    /// Names of the volumes, those of an earlier broker of the same name included.
    pub volumes: Vec<String>,
    /// Their sizes.
    pub sizes: Vec<Volume>,
}

impl Observed {
    /// The root of trust: the one there is, or a new one where nothing could depend on an older one.
    ///
    /// # Errors
    /// It is gone, and there are volumes that depend on it.
    pub fn root_of_trust(&self, context: &Context, owner: &Owner, broker: &EventBroker) -> Result<Authority, Error> {
        match &self.authority {
            Some(authority) => Ok(authority.clone()),
            None if self.volumes.is_empty() => {
                let mut authority = Authority::generate(&owner.name, OffsetDateTime::now_utc())?;
                authority.rollover.request = request_of(broker);
                Ok(authority)
            }
            None => Err(Error::refused(
                "AuthorityMissing",
                format!(
                    "Secret {} of namespace {} is gone, but there are volumes that only it opens ({}): restore it from a backup, or delete them to begin without their events",
                    names::authority(&owner.name, &owner.namespace),
                    context.args.pod_namespace,
                    self.volumes.join(", ")
                ),
            )),
        }
    }
}

/// Reads it.
///
/// # Errors
/// The API server is away, or the authority's Secret is damaged.
pub async fn observe(context: &Context, owner: &Owner) -> Result<Observed, Error> {
    let (broker, namespace) = (&owner.name, &owner.namespace);
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let key = BrokerKey { namespace: namespace.clone(), name: broker.clone() };
    let statefulset = current(context, &context.stores.statefulsets, namespace, &names::broker(broker)).await?;
    let pods = Stores::pods_of(&context.stores.broker_pods, namespace, names::BROKER_LABEL, broker);
    let claims = claims(context, owner).await?;
    // A pod that waits for its claim is only said to be unscheduled; the claim has the cause.
    let waiting = waiting::trouble(context, owner, statefulset.as_ref(), &pods, &claims).await?;
    let overdue = pods::overdue(&pods, context.restart_policy.end_slack, Timestamp::now());
    let (authority, authority_version) = keys::read(context, &key).await?.unzip();
    Ok(Observed {
        trouble: pods::worst(pods::trouble(&pods).into_iter().chain(waiting).chain(overdue)),
        authority,
        authority_version,
        broker_secret: secrets.get_opt(&names::broker(broker)).await?,
        ingress_secret: secrets.get_opt(&names::ingress(broker)).await?,
        routes_secret: secrets.get_opt(&names::routes(broker)).await?,
        statefulset,
        pods,
        volumes: claims.iter().filter_map(|claim| claim.metadata.name.clone()).collect(),
        sizes: claims.iter().filter_map(Volume::from_claim).collect(),
    })
}

async fn claims(context: &Context, owner: &Owner) -> Result<Vec<PersistentVolumeClaim>, Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &owner.namespace);
    Ok(claims.list(&selected(&owner.name)).await?.items)
}

/// What of a broker there is.
pub fn selected(broker: &str) -> ListParams {
    let labels: Vec<_> =
        names::broker_selector(broker).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    ListParams::default().labels(&labels.join(","))
}
