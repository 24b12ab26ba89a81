//! The operator's own connections: for each broker one in its system account and one in that of its ingresses; and one in
//! the account of each topic of which something is being looked at or changed.
//!
//! A session with a task of its own makes them when they are needed first, and makes them again when they are lost. Those of
//! a broker end with it, that of a topic when it was not needed for a while or others are needed more ([`MAX_TOPICS`]). User
//! JWTs and certificates are signed at each connect, so nothing of the operator's own is stored anywhere.

mod accounts;
mod authorities;
mod rounds;
pub(crate) mod session;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::server::Server;
use tidegate_broker_admin::serving::Ingresses;
use tidegate_broker_admin::{Authority, AuthorityError, LeafRequest};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::connect;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::identity::{Identity, Source, Unreadable};
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_wire::nats::Client;
use time::OffsetDateTime;

use self::accounts::Known;
pub use self::accounts::{Due, KnownAccounts};
use self::authorities::{Authorities, Keys};
pub(crate) use self::rounds::Effect;
use self::rounds::Rounds;
use self::session::{Connected, Sessions, Site};
use crate::broker::scale::Scale;
use crate::kubernetes::names;
use crate::reconcile::error::Error;

/// No request of the operator waits longer for a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Topics' accounts that are connected to at a time: twice as many as are reconciled at a time.
const MAX_TOPICS: usize = 64;
/// The account of the ingresses, which is as large as the number of topics, is pushed this often at most. A topic that comes
/// alone does not wait.
const PUSH_SPACING: Duration = Duration::from_millis(500);
/// The connection to a topic's account ends when it was not needed for so long.
const TOPIC_IDLE: Duration = Duration::from_secs(10);
/// The same of those to a broker's servers, where nobody reconciles it.
const SERVERS_IDLE: Duration = Duration::from_secs(60);

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

impl From<&TopicId> for TopicKey {
    fn from(id: &TopicId) -> Self {
        Self { namespace: id.namespace().to_owned(), name: id.name().to_owned() }
    }
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
    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        usize::try_from(self.pods).unwrap_or(1)
    }

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
    /// Where they are.
    pub place: Place,
    clients: [Client; 2],
    accounts: tokio::sync::Mutex<Option<Known>>,
    /// Of pushes of the account of the ingresses, with the topics that are to be in it.
    pub(crate) ingress_rounds: Rounds<Option<(TopicId, Routing)>>,
    answers: AtomicBool,
}

impl Servers {
    /// The system account, as a plain client.
    pub fn system_client(&self) -> &Client {
        &self.clients[0]
    }

    /// The account of the ingresses, as a plain client.
    pub fn ingress_client(&self) -> &Client {
        &self.clients[1]
    }

    /// Whether the last question of the session was answered in time. A reconcile does not wait for a broker that hangs.
    pub(crate) fn set_answers(&self, answers: bool) {
        self.answers.store(answers, Ordering::Relaxed);
    }

    /// What accounts there are. The servers are asked once in a session.
    ///
    /// # Errors
    /// They did not say.
    pub async fn accounts(&self) -> Result<KnownAccounts<'_>, Error> {
        let mut known = self.accounts.lock().await;
        if known.is_none() {
            *known = Some(Known::new(self.system.accounts().await?));
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
    servers: Arc<Servers>,
    places: Places,
}

/// Of a topic, and not of a connection: there may be another one before the former has ended.
type Places = Arc<tokio::sync::Mutex<()>>;

impl Broker {
    /// Held while handlers' places on this broker (streams and consumers) are looked at and then made or removed: what
    /// two do at the same time could promise more room than there is, or remove what has just been made.
    pub async fn places(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.places.lock().await
    }

    fn new(client: Client, servers: Arc<Servers>, places: Places) -> Self {
        let api = api::Broker::new(client.clone(), REQUEST_TIMEOUT);
        Self { api, system: servers.system.clone(), client, servers, places }
    }

    fn check(self: Arc<Self>) -> Result<Arc<Self>, Error> {
        if !self.is_connected() {
            return Err(Error::Broker("the connection was lost: connecting again".into()));
        }
        if !self.servers.answers.load(Ordering::Relaxed) {
            return Err(Error::Broker("it accepts connections and does not answer: look at its pods".into()));
        }
        Ok(self)
    }
}

impl Connected for Broker {
    fn is_connected(&self) -> bool {
        self.servers.is_connected() && self.client.link().borrow().connected
    }
}

/// All connections.
pub struct Brokers {
    servers: Arc<Sessions<BrokerKey, Servers>>,
    topics: Sessions<TopicKey, Broker>,
    /// Of the topics that are connected to.
    places: Mutex<HashMap<TopicKey, Places>>,
    authorities: Arc<Authorities>,
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
        let topics = Sessions::bounded(MAX_TOPICS);
        let (servers, places, authorities) = (Arc::default(), Mutex::default(), Arc::default());
        Self { servers, topics, places, authorities, addresses }
    }

    /// The servers of a broker. Begins a session if there is none.
    ///
    /// # Errors
    /// They cannot be reached now. The session keeps trying.
    pub async fn servers(&self, place: &Place) -> Result<Arc<Servers>, Error> {
        let what = format!("broker {}/{}", place.broker.namespace, place.broker.name);
        let site = self.site(place);
        let (place_of, keys, at) = (place.clone(), self.keys(place), site.clone());
        let open = move || {
            let (place, keys, at, what) = (place_of.clone(), keys.clone(), at.clone(), what.clone());
            async move { open_servers(&what, place, &keys, &at).await }
        };
        self.servers.get(&place.broker, site, open).await
    }

    /// A topic's account on its broker. Begins a session if there is none. It lasts while it is used, and a little longer.
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
        let (all, keys, places) = (self.servers.clone(), self.keys(place), self.places(topic));
        let open = move || {
            let (all, addresses) = (all.clone(), addresses.clone());
            let (id, keys, places) = (id.clone(), keys.clone(), places.clone());
            async move {
                let servers = all.known(keys.broker()).ok_or("its servers are not reached yet")?;
                let client = open_topic(&id, &keys, &addresses).await?;
                Ok(Broker::new(client, servers, places))
            }
        };
        drop(servers);
        self.topics.get(topic, site, open).await?.check()
    }

    fn keys(&self, place: &Place) -> Keys {
        self.authorities.note(&place.broker, &place.authority);
        Keys::new(&self.authorities, &place.broker)
    }

    fn site(&self, place: &Place) -> Site {
        let addresses = (self.addresses)(&place.broker, place.pods);
        Site { root: place.authority.root, voters: usize::try_from(place.voters).unwrap_or(1), addresses }
    }

    fn places(&self, topic: &TopicKey) -> Places {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).entry(topic.clone()).or_default().clone()
    }

    /// All brokers that were reached.
    pub fn reached(&self) -> HashMap<BrokerKey, Arc<Servers>> {
        self.servers.reached()
    }

    /// Waits until some broker was reached or lost.
    pub async fn news(&self) {
        self.servers.news().await;
    }

    /// Ends the session of a topic that is no more.
    pub fn forget(&self, topic: &TopicKey) {
        self.topics.forget(topic);
    }

    /// Ends the session of a broker that is no more.
    pub fn forget_broker(&self, broker: &BrokerKey) {
        self.servers.forget(broker);
        self.authorities.keep(|known| known != broker);
    }

    /// Ends all sessions but these, however their topics and brokers went, and those of topics that were not used lately.
    pub(crate) fn keep(&self, is_topic: impl Fn(&TopicKey) -> bool, is_broker: impl Fn(&BrokerKey) -> bool) {
        self.topics.keep(is_topic);
        self.topics.end_idle(TOPIC_IDLE);
        self.authorities.keep(&is_broker);
        self.servers.keep(is_broker);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // A session has one, and so has each who uses it.
        places.retain(|_, places| Arc::strong_count(places) > 1);
    }
}

impl Brokers {
    /// Ends all sessions that were not used lately, those with brokers too: for whoever only asks now and then.
    pub(crate) fn end_idle(&self) {
        self.topics.end_idle(TOPIC_IDLE);
        self.servers.end_idle(SERVERS_IDLE);
    }
}

async fn open_servers(what: &str, place: Place, keys: &Keys, site: &Site) -> Result<Servers, String> {
    let servers = &site.addresses;
    let system = open(what, keys, servers, |authority, now| authority.system_user(now)).await?;
    let ingresses = open(what, keys, servers, |authority, now| authority.ingress_operator_user(now)).await?;
    Ok(Servers {
        system: System::new(system.clone(), servers.len()).with_voters(site.voters),
        ingresses: Ingresses::new(ingresses.clone(), servers.len()),
        clients: [system, ingresses],
        accounts: tokio::sync::Mutex::default(),
        ingress_rounds: Rounds::spaced(PUSH_SPACING),
        answers: AtomicBool::new(true),
        place,
    })
}

async fn open_topic(topic: &TopicId, keys: &Keys, addresses: &[String]) -> Result<Client, String> {
    let (id, what) = (topic.clone(), format!("topic {topic}"));
    open(&what, keys, addresses, move |authority, now| authority.operator_user(&id, now)).await
}

async fn open(
    what: &str,
    keys: &Keys,
    servers: &[String],
    user: impl Fn(&Authority, OffsetDateTime) -> Result<User, AuthorityError> + Send + Sync + 'static,
) -> Result<Client, String> {
    let keys = keys.clone();
    let source: Source = Arc::new(move || identity(&keys.newest()?, &user));
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
    let leaf = authority.leaf(&LeafRequest::client("operator"), now).map_err(failed)?;
    Ok(Identity {
        ca: authority.trusted_servers(),
        certificate: leaf.certificate,
        key: leaf.key,
        user_jwt: user.jwt,
        user_seed: user.seed,
    })
}
