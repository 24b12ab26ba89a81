//! A topic of a cluster, with the rights of the user's kubeconfig: its address from its status, a token of a ServiceAccount,
//! and a port of a broker pod that the API server forwards.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use tidegate_crds::EventTopic;
use tidegate_operator::broker::topics::broker_of;
use tidegate_operator::kubernetes::names;

use super::Place;
use super::way::{Reach, Stream, Token, Way, address};
use crate::cluster::{self, explain, sentence};
use crate::failure::Failure;
use crate::stored::Location;
use crate::terminal::text;

/// How long a token is good: no longer than a command should take, and no less than an API server gives.
const TOKEN_SECONDS: i64 = 3600;

/// A port of a broker pod.
pub struct PodPort {
    pods: Api<Pod>,
    name: String,
    port: u16,
}

impl PodPort {
    /// Has the API server connect to it.
    ///
    /// # Errors
    /// It does not.
    pub async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let forwarded = self.pods.portforward(&self.name, &[self.port]).await;
        let mut forwarded = forwarded.map_err(|error| format!("pod {}: {}", self.name, sentence(&error)))?;
        match forwarded.take_stream(self.port) {
            Some(stream) => Ok(Box::new(stream)),
            None => Err(format!("pod {}: port {} is not forwarded", self.name, self.port)),
        }
    }
}

/// The way to a topic of the kubeconfig's cluster.
///
/// # Errors
/// No cluster, no such topic, or no right.
pub async fn way(topic: &str, place: &Place) -> Result<Way, Failure> {
    let (client, own_namespace) = cluster::client(place.context.as_deref()).await.map_err(|error| {
        Failure::Failed(format!(
            "no tidegate dev with this topic runs here, and no cluster is reached: {error}: start tidegate dev, or set KUBECONFIG"
        ))
    })?;
    let namespace = place.namespace.clone().unwrap_or(own_namespace);
    let shown = format!("EventTopic {}/{}", text(&namespace), text(topic));
    let topics: Api<EventTopic> = Api::namespaced(client.clone(), &namespace);
    let found = topics.get_opt(topic).await.map_err(|error| failed(&shown, &error))?;
    let Some(found) = found else {
        return Err(Failure::Failed(format!(
            "{shown} is not in the cluster, and no tidegate dev with it runs here: correct the name, or say --namespace"
        )));
    };
    let address_of = found.status.as_ref().and_then(|status| status.address.as_ref());
    let parts = address_of
        .and_then(|address| Some((address.url.clone(), address.ca_certs.clone()?, address.audience.clone()?)));
    let Some((url, ca, audience)) = parts else {
        let location = Location { namespace, context: place.context.clone() };
        let describe = location.command(&format!("kubectl describe eventtopic {}", text(topic)));
        return Err(Failure::Failed(format!("{shown} has no address yet: {describe} says what it waits for")));
    };
    let token = token(&client, &namespace, &place.service_account, &audience).await?;
    let reach = match &place.connect {
        Some(connect) => Reach::Tcp(connect.clone()),
        None => Reach::Pod(Box::new(broker_pod(&client, &found).await?)),
    };
    Ok(Way { url: address(&url)?, ca, token: Token::Text(token), reach })
}

async fn token(client: &Client, namespace: &str, account: &str, audience: &str) -> Result<String, Failure> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let spec = TokenRequestSpec {
        audiences: vec![audience.to_owned()],
        expiration_seconds: Some(TOKEN_SECONDS),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let shown = format!("a token of ServiceAccount {}/{}", text(namespace), text(account));
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let made = made.map_err(|error| failed(&shown, &error))?;
    made.status.map(|status| status.token).ok_or_else(|| Failure::Failed(format!("{shown} was not made: try again")))
}

/// A pod of the topic's broker that is ready.
async fn broker_pod(client: &Client, topic: &EventTopic) -> Result<PodPort, Failure> {
    let broker = broker_of(topic);
    let selector = names::broker_selector(&broker.name);
    let labels: Vec<String> = selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &broker.namespace);
    let shown = format!("the pods of EventBroker {}/{}", text(&broker.namespace), text(&broker.name));
    let found = pods.list(&ListParams::default().labels(&labels.join(","))).await;
    let found = found.map_err(|error| failed(&shown, &error))?;
    let ready = found.items.iter().find(|pod| is_ready(pod));
    let Some(ready) = ready else {
        return Err(Failure::Failed(format!("{shown}: none is ready: wait until the topic is Ready again")));
    };
    let port = u16::try_from(names::INGRESS_PORT).map_err(Failure::failed)?;
    Ok(PodPort { name: ready.name_any(), pods, port })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn failed(what: &str, error: &kube::Error) -> Failure {
    Failure::Failed(explain(what, error, "ask for the right, or publish by --url with a token of your own"))
}
