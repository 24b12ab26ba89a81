//! What a cluster says of Tidegate's installation: read once, with the user's own rights.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use tidegate_crds::EventBroker;
use tidegate_operator::check;
use tidegate_operator::kubernetes::leader::LEASE;
use tidegate_operator::subresources::API_SERVICE;

use crate::cluster::explain;
use crate::doctor::facts::{Holder, Seen, all, unread};
use crate::failure::Failure;
use crate::stored::Location;

/// The API that this program speaks.
pub const VERSION: &str = "tidegate.io/v1alpha1";
/// How the chart marks the operator, and what belongs to it.
const OPERATOR: &str = "app.kubernetes.io/name=tidegate,app.kubernetes.io/component=operator";
/// A leader that renews its Lease does it in this time.
const LEASE_TIMEOUT: Duration = Duration::from_secs(12);

/// A right, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// Verb.
    pub verb: &'static str,
    /// API group.
    pub group: &'static str,
    /// Resource, with its subresource.
    pub resource: &'static str,
    /// What needs it.
    pub purpose: &'static str,
}

const fn right(verb: &'static str, group: &'static str, resource: &'static str, purpose: &'static str) -> Right {
    Right { verb, group, resource, purpose }
}

const EVENTS: &str = "subresources.tidegate.io";

/// The rights that are asked about: all that this program uses.
const RIGHTS: [Right; 16] = [
    right("get", "tidegate.io", "eventbrokers", "tidegate doctor"),
    right("get", "tidegate.io", "eventtopics", "tidegate doctor"),
    right("list", "tidegate.io", "eventtopics", "tidegate doctor"),
    right("get", "tidegate.io", "eventhandlers", "tidegate doctor"),
    right("list", "tidegate.io", "eventhandlers", "tidegate doctor"),
    right("list", "", "pods", "tidegate doctor"),
    right("list", "", "events", "tidegate doctor"),
    right("create", "tidegate.io", "eventtopics", "topics of your own"),
    right("create", "tidegate.io", "eventhandlers", "handlers of your own"),
    right("create", "", "serviceaccounts/token", "tidegate send"),
    right("create", "", "pods/portforward", "tidegate send"),
    right("get", EVENTS, "eventtopics/events", "tidegate tail"),
    right("watch", EVENTS, "eventtopics/events", "tidegate tail --follow"),
    right("get", EVENTS, "eventhandlers/deadletters", "tidegate dead"),
    right("delete", EVENTS, "eventhandlers/deadletters", "tidegate dead drop"),
    right("create", EVENTS, "eventhandlers/redrive", "tidegate dead redrive"),
];

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the rights are checked, and commands are for that are suggested.
    pub location: Location,
    /// Kinds that the API server serves of [`VERSION`].
    pub kinds: Seen<Vec<String>>,
    /// Deployments of operators.
    pub operators: Seen<Vec<Deployment>>,
    /// Who leads; `Missing`: nobody renews the Lease. `None`: it is not known where the operator is.
    pub leader: Option<Seen<String>>,
    /// Whether the chart's admission webhook is registered.
    pub is_registered: Seen<bool>,
    /// Whether the API server refused what only the webhook refuses.
    pub is_asked: Seen<bool>,
    /// Rights that the user does not have.
    pub lacking: Seen<Vec<Right>>,
    /// Brokers.
    pub brokers: Seen<Vec<EventBroker>>,
    /// Storage classes.
    pub classes: Seen<Vec<StorageClass>>,
    /// The registration of the aggregated API.
    pub api: Seen<APIService>,
}

/// Reads it.
///
/// # Errors
/// The cluster is not reached.
pub async fn read(client: &Client, location: &Location, operators: Option<&str>) -> Result<Facts, Failure> {
    let namespace = location.namespace.as_str();
    let kinds = kinds(client).await?;
    let operators = self::operators(client, operators).await;
    let leader = match &operators {
        Seen::There(found) => match found.as_slice() {
            [one] => Some(leader(client, &one.namespace().unwrap_or_default()).await),
            _ => None,
        },
        _ => None,
    };
    Ok(Facts {
        location: location.clone(),
        operators,
        leader,
        is_registered: is_registered(client).await,
        is_asked: is_asked(client, namespace, &kinds).await,
        kinds,
        lacking: lacking(client, namespace).await,
        brokers: brokers(client, namespace).await,
        classes: all(&Api::<StorageClass>::all(client.clone()), ListParams::default(), Holder::Administrator).await,
        api: one(Api::<APIService>::all(client.clone()).get_opt(API_SERVICE).await),
    })
}

async fn kinds(client: &Client) -> Result<Seen<Vec<String>>, Failure> {
    match client.list_api_group_resources(VERSION).await {
        Ok(found) => Ok(Seen::There(found.resources.into_iter().map(|resource| resource.name).collect())),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Seen::Missing),
        Err(error @ kube::Error::Api(_)) => Ok(unread(&error, Holder::Administrator)),
        Err(error) => Err(Failure::Unseen(explain("the cluster", &error, "ask for the right"))),
    }
}

async fn operators(client: &Client, namespace: Option<&str>) -> Seen<Vec<Deployment>> {
    let (api, holder): (Api<Deployment>, _) = match namespace {
        Some(namespace) => (Api::namespaced(client.clone(), namespace), Holder::View),
        None => (Api::all(client.clone()), Holder::Administrator),
    };
    all(&api, ListParams::default().labels(OPERATOR), holder).await
}

async fn leader(client: &Client, namespace: &str) -> Seen<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = leases.get_opt(LEASE).await {
        return unread(&error, Holder::Administrator);
    }
    match check::leader(client, namespace, LEASE_TIMEOUT).await {
        Ok(holder) => Seen::There(holder),
        Err(_) => Seen::Missing,
    }
}

async fn is_registered(client: &Client) -> Seen<bool> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    match all(&api, ListParams::default().labels(OPERATOR), Holder::Administrator).await {
        Seen::There(found) => Seen::There(!found.is_empty()),
        Seen::Missing => Seen::Missing,
        Seen::Unread(why) => Seen::Unread(why),
    }
}

async fn is_asked(client: &Client, namespace: &str, kinds: &Seen<Vec<String>>) -> Seen<bool> {
    match kinds {
        // It is a handler that is not stored, so the right is that to make one.
        Seen::There(_) => match check::is_asked(client, namespace).await {
            Ok(is_asked) => Seen::There(is_asked),
            Err(error) => unread(&error, Holder::Edit),
        },
        _ => Seen::Missing,
    }
}

async fn lacking(client: &Client, namespace: &str) -> Seen<Vec<Right>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut lacking = Vec::new();
    for right in RIGHTS {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource, None),
        };
        let attributes = ResourceAttributes {
            namespace: Some(namespace.to_owned()),
            verb: Some(right.verb.to_owned()),
            group: Some(right.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        match reviews.create(&PostParams::default(), &review).await {
            Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => lacking.push(right),
            Err(error) => return unread(&error, Holder::Administrator),
        }
    }
    Seen::There(lacking)
}

/// Of all namespaces, or of the user's own where that is not allowed.
async fn brokers(client: &Client, namespace: &str) -> Seen<Vec<EventBroker>> {
    let everywhere: Api<EventBroker> = Api::all(client.clone());
    match everywhere.list(&ListParams::default().limit(1)).await {
        Ok(_) => all(&everywhere, ListParams::default(), Holder::Administrator).await,
        Err(kube::Error::Api(status)) if status.code == 404 => Seen::Missing,
        Err(kube::Error::Api(status)) if status.code == 403 => {
            all(&Api::<EventBroker>::namespaced(client.clone(), namespace), ListParams::default(), Holder::View).await
        }
        Err(error) => unread(&error, Holder::Administrator),
    }
}

fn one<T>(found: kube::Result<Option<T>>) -> Seen<T> {
    found.map_or_else(|error| unread(&error, Holder::Administrator), |found| found.map_or(Seen::Missing, Seen::There))
}
