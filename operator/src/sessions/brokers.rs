//! The operator's own connections: for each broker one in its system account and one in that of its ingresses, and for
//! each topic one in its account.
//!
//! A session with a task of its own makes them when a broker or topic is first reconciled, makes them again when they are
//! lost, and ends with it. User JWTs and certificates are signed at each connect, so nothing of the operator's own is
//! stored anywhere.

pub(crate) mod session;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::server::Server;
use tidegate_broker_admin::serving::Ingresses;
use tidegate_broker_admin::{Authority, AuthorityError, LeafRequest, Usage};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::connect;
use tidegate_broker_client::identity::{Identity, Source, Unreadable};
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_wire::nats::Client;
use time::OffsetDateTime;

use self::session::{Connected, Sessions, Site};
use crate::broker::scale::Scale;
use crate::kubernetes::names;
use crate::reconcile::error::Error;

/// No request of the operator waits longer for a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Namespace and name of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BrokerKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Namespace and name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl TopicKey {
    /// Its name, with its namespace where that is another one than the reader's.
    pub(crate) fn shown_in(&self, namespace: &str) -> String {
        if self.namespace == namespace { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl BrokerKey {
    /// The same of a broker.
    pub(crate) fn shown_in(&self, namespace: &str) -> String {
        if self.namespace == namespace { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// Where a broker is, and what opens it.
#[derive(Clone)]
pub struct Place {
    /// The broker.
    pub broker: BrokerKey,
    /// Its root of trust.
    pub authority: Authority,
    /// Its pods.
    pub pods: i32,
    /// Those of them without most of which nothing is stored.
    pub voters: i32,
}

impl Place {
    /// Of a broker that has so many servers now.
    pub fn new(broker: BrokerKey, authority: Authority, scale: &Scale) -> Self {
        Self { broker, authority, pods: scale.pods, voters: scale.copies }
    }
}

/// The addresses of a broker's pods, of which there are as many.
pub type Addresses = Arc<dyn Fn(&BrokerKey, i32) -> Vec<String> + Send + Sync>;

/// What a broker's server of this name answers as its digest when it has loaded this configuration.
pub type Digests = Arc<dyn Fn(&BrokerKey, &Server, &str) -> String + Send + Sync>;

/// A broker's servers and ingresses, reached.
pub struct Servers {
    /// The system account.
    pub system: System,
    /// The ingresses.
    pub ingresses: Ingresses,
    clients: [Client; 2],
    accounts: tokio::sync::Mutex<Option<HashSet<String>>>,
}

/// The accounts that a broker has, as far as the operator has to know. Held while that of the ingresses is changed, which
/// has something of every topic.
pub struct KnownAccounts<'a>(tokio::sync::MutexGuard<'a, Option<HashSet<String>>>);

impl KnownAccounts<'_> {
    /// Whether the broker has this account.
    pub fn has(&self, id: &str) -> bool {
        self.0.as_ref().is_some_and(|known| known.contains(id))
    }

    /// It has it from now on. Whether it had it before.
    pub fn add(&mut self, id: String) -> bool {
        self.0.as_mut().is_some_and(|known| !known.insert(id))
    }

    /// It has it no longer.
    pub fn remove(&mut self, id: &str) {
        if let Some(known) = self.0.as_mut() {
            known.remove(id);
        }
    }
}

impl Servers {
    /// The system account, as a plain client.
    pub fn system_client(&self) -> &Client {
        &self.clients[0]
    }

    /// What accounts there are. The servers are asked once in a session.
    ///
    /// # Errors
    /// They did not say.
    pub async fn accounts(&self) -> Result<KnownAccounts<'_>, Error> {
        let mut known = self.accounts.lock().await;
        if known.is_none() {
            *known = Some(self.system.accounts().await?);
        }
        Ok(KnownAccounts(known))
    }
}

impl Connected for Servers {
    fn is_connected(&self) -> bool {
        self.clients.iter().all(|client| client.link().borrow().connected)
    }
}

/// A topic's account on its broker, reached.
pub struct Broker {
    /// Its streams, consumers and stored messages.
    pub api: api::Broker,
    /// The system account.
    pub system: System,
    client: Client,
    servers: Option<Arc<Servers>>,
    answers: AtomicBool,
    places: tokio::sync::Mutex<()>,
}

impl Broker {
    /// The topic's account, as a plain client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Held while handlers' places on this broker (streams and consumers) are looked at and then made or removed: what
    /// two do at the same time could promise more room than there is, or remove what has just been made.
    pub async fn places(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.places.lock().await
    }

    fn new(client: Client, system: System, servers: Option<Arc<Servers>>) -> Self {
        let api = api::Broker::new(client.clone(), REQUEST_TIMEOUT);
        Self { api, system, client, servers, answers: AtomicBool::new(true), places: Default::default() }
    }

    #[cfg(test)]
    pub(crate) async fn of_test(broker: &tidegate_test_broker::TestBroker) -> Self {
        let client = broker.admin_client();
        Self::new(client.clone(), System::new(client, 1), None)
    }

    /// Whether the last question of its session was answered in time. A reconcile does not wait for one that hangs.
    pub(crate) fn set_answers(&self, answers: bool) {
        self.answers.store(answers, Ordering::Relaxed);
    }

    fn check(self: Arc<Self>) -> Result<Arc<Self>, Error> {
        if !self.is_connected() {
            return Err(Error::Broker("the connection was lost: connecting again".into()));
        }
        if !self.answers.load(Ordering::Relaxed) {
            return Err(Error::Broker("it accepts connections and does not answer: look at its pods".into()));
        }
        Ok(self)
    }
}

impl Connected for Broker {
    fn is_connected(&self) -> bool {
        let servers = self.servers.as_ref().is_none_or(|servers| servers.is_connected());
        servers && self.client.link().borrow().connected
    }
}

/// All connections.
pub struct Brokers {
    servers: Arc<Sessions<BrokerKey, Servers>>,
    topics: Sessions<TopicKey, Broker>,
    addresses: Addresses,
}

impl Default for Brokers {
    /// In the cluster.
    fn default() -> Self {
        let host = |broker: &BrokerKey, ordinal| names::broker_pod_host(&broker.name, &broker.namespace, ordinal);
        Self::new(Arc::new(move |broker, replicas| {
            (0..replicas).map(|ordinal| format!("tls://{}:{BROKER_PORT}", host(broker, ordinal))).collect()
        }))
    }
}

impl Brokers {
    /// At these addresses.
    pub fn new(addresses: Addresses) -> Self {
        Self { servers: Arc::default(), topics: Sessions::default(), addresses }
    }

    /// The servers of a broker. Begins a session if there is none.
    ///
    /// # Errors
    /// They cannot be reached now. The session keeps trying.
    pub async fn servers(&self, place: &Place) -> Result<Arc<Servers>, Error> {
        let what = format!("broker {}/{}", place.broker.namespace, place.broker.name);
        let site = self.site(place);
        let (authority, at) = (place.authority.clone(), site.clone());
        let open = move || {
            let (authority, at, what) = (authority.clone(), at.clone(), what.clone());
            async move { open_servers(&what, &authority, &at).await }
        };
        self.servers.get(&place.broker, site, open).await
    }

    /// A topic's account on its broker. Begins a session if there is none.
    ///
    /// # Errors
    /// It cannot be reached now. The session keeps trying.
    pub async fn get(&self, topic: &TopicKey, place: &Place) -> Result<Arc<Broker>, Error> {
        // Its session comes first, so that an error of it is told as it is.
        let servers = self.servers(place).await?;
        let id = TopicId::new(topic.namespace.clone(), topic.name.clone())
            .map_err(|error| Error::refused("InvalidName", error.to_string()))?;
        let site = self.site(place);
        let addresses = site.addresses.clone();
        let (all, broker, authority) = (self.servers.clone(), place.broker.clone(), place.authority.clone());
        let open = move || {
            let (all, broker, addresses) = (all.clone(), broker.clone(), addresses.clone());
            let (id, authority) = (id.clone(), authority.clone());
            async move {
                let servers = all.known(&broker).ok_or("its servers are not reached yet")?;
                open_topic(&id, &authority, &addresses, servers).await
            }
        };
        drop(servers);
        self.topics.get(topic, site, open).await?.check()
    }

    fn site(&self, place: &Place) -> Site {
        let addresses = (self.addresses)(&place.broker, place.pods);
        Site { root: place.authority.root, voters: usize::try_from(place.voters).unwrap_or(1), addresses }
    }

    /// A topic's account if there is a connection.
    pub fn known(&self, topic: &TopicKey) -> Option<Arc<Broker>> {
        self.topics.known(topic)
    }

    /// All topics' accounts that were reached.
    pub fn reached(&self) -> HashMap<TopicKey, Arc<Broker>> {
        self.topics.reached()
    }

    /// Waits until some topic's account was reached or lost.
    pub async fn news(&self) {
        self.topics.news().await;
    }

    /// Ends the session of a topic that is no more.
    pub fn forget(&self, topic: &TopicKey) {
        self.topics.forget(topic);
    }

    /// Ends the session of a broker that is no more.
    pub fn forget_broker(&self, broker: &BrokerKey) {
        self.servers.forget(broker);
    }

    /// Ends all sessions but these, however their topics and brokers went.
    pub(crate) fn keep(&self, is_topic: impl Fn(&TopicKey) -> bool, is_broker: impl Fn(&BrokerKey) -> bool) {
        self.topics.keep(is_topic);
        self.servers.keep(is_broker);
    }
}

async fn open_servers(what: &str, authority: &Authority, site: &Site) -> Result<Servers, String> {
    let servers = &site.addresses;
    let system = open(what, authority, servers, |authority, now| authority.system_user(now)).await?;
    let ingresses = open(what, authority, servers, |authority, now| authority.ingress_operator_user(now)).await?;
    Ok(Servers {
        system: System::new(system.clone(), servers.len()).with_voters(site.voters),
        ingresses: Ingresses::new(ingresses.clone(), servers.len()),
        clients: [system, ingresses],
        accounts: tokio::sync::Mutex::default(),
    })
}

async fn open_topic(
    topic: &TopicId,
    authority: &Authority,
    addresses: &[String],
    servers: Arc<Servers>,
) -> Result<Broker, String> {
    let (id, what) = (topic.clone(), format!("topic {topic}"));
    let client = open(&what, authority, addresses, move |authority, now| authority.operator_user(&id, now)).await?;
    Ok(Broker::new(client, servers.system.clone(), Some(servers)))
}

async fn open(
    what: &str,
    authority: &Authority,
    servers: &[String],
    user: impl Fn(&Authority, OffsetDateTime) -> Result<User, AuthorityError> + Send + Sync + 'static,
) -> Result<Client, String> {
    let authority = authority.clone();
    let source: Source = Arc::new(move || identity(&authority, &user));
    let name = format!("tidegate-operator {what}");
    let options = connect::options(&name, servers, source).map_err(|error| error.to_string())?;
    Client::connect(options).await.map_err(|error| error.to_string())
}

fn identity(
    authority: &Authority,
    user: &dyn Fn(&Authority, OffsetDateTime) -> Result<User, AuthorityError>,
) -> Result<Identity, Unreadable> {
    let now = OffsetDateTime::now_utc();
    let failed = |error: AuthorityError| Unreadable::new("operator", error);
    let user = user(authority, now).map_err(failed)?;
    let request = LeafRequest { name: "tidegate operator".into(), hosts: Vec::new(), usage: Usage::Client };
    let leaf = authority.leaf(&request, now).map_err(failed)?;
    Ok(Identity {
        ca: authority.ca_certificate.clone(),
        certificate: leaf.certificate,
        key: leaf.key,
        user_jwt: user.jwt,
        user_seed: user.seed,
    })
}
