//! The operator's own connections: two for each topic, one in its account, one in the system account.
//!
//! They are made when a topic is first reconciled and end with it. User JWTs and certificates are signed
//! at each connect, so nothing of the operator's own is stored anywhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::{Authority, AuthorityError, LeafRequest, Usage};
use tidegate_broker_client::connect;
use tidegate_broker_client::identity::{Identity, Source, Unreadable};
use tidegate_broker_client::layout::BROKER_PORT;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Error;
use crate::names;

/// No request of the operator waits longer for a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Namespace and name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A topic's broker, reached.
pub struct Broker {
    /// The topic's account, with JetStream.
    pub js: jetstream::Context,
    /// The system account.
    pub system: System,
    client: async_nats::Client,
    root: [u8; 32],
    /// Ends with the connection that it listens on: its subscription would keep that alive.
    listening: Mutex<HashMap<&'static str, AbortOnDropHandle<()>>>,
}

impl Broker {
    /// The topic's account, as a plain client.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// Starts what listens on this connection, if it does not run; it ends when the operator forgets the broker.
    pub fn listen(&self, to: &'static str, start: impl FnOnce() -> JoinHandle<()>) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.get(to).is_none_or(AbortOnDropHandle::is_finished) {
            listening.insert(to, AbortOnDropHandle::new(start()));
        }
    }

    /// Of connections that are there.
    fn new(client: async_nats::Client, system: System, root: [u8; 32]) -> Self {
        let mut js = jetstream::new(client.clone());
        js.set_timeout(REQUEST_TIMEOUT);
        Self { js, system, client, root, listening: Mutex::default() }
    }

    #[cfg(test)]
    pub(crate) async fn of_test(broker: &tidegate_test_broker::TestBroker) -> Self {
        Self::new(broker.operator(), broker.system().await, broker.authority().root)
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// All connections.
#[derive(Default)]
pub struct Brokers(Mutex<HashMap<TopicKey, Arc<Broker>>>);

impl Brokers {
    /// The topic's broker, connected now if it was not.
    ///
    /// # Errors
    /// It cannot be reached, or is being reconnected to.
    pub async fn get(&self, topic: &TopicKey, authority: &Authority, replicas: i32) -> Result<Arc<Broker>, Error> {
        if let Some(broker) = self.known(topic).filter(|broker| broker.root == authority.root) {
            return if broker.is_connected() { Ok(broker) } else { Err(Error::Broker("connecting again".into())) };
        }
        let broker = Arc::new(connect(topic, authority, replicas).await?);
        self.lock().insert(topic.clone(), broker.clone());
        Ok(broker)
    }

    /// The topic's broker if there is a connection.
    pub fn known(&self, topic: &TopicKey) -> Option<Arc<Broker>> {
        self.lock().get(topic).cloned()
    }

    /// All topics with a live connection.
    pub fn connected(&self) -> Vec<(TopicKey, Arc<Broker>)> {
        self.lock()
            .iter()
            .filter(|(_, broker)| broker.is_connected())
            .map(|(key, broker)| (key.clone(), broker.clone()))
            .collect()
    }

    /// Ends the connections of a topic that is no more.
    pub fn forget(&self, topic: &TopicKey) {
        self.lock().remove(topic);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TopicKey, Arc<Broker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(topic: &TopicKey, authority: &Authority, replicas: i32) -> Result<Broker, Error> {
    let servers: Vec<String> = (0..replicas)
        .map(|ordinal| {
            format!("tls://{}:{BROKER_PORT}", names::broker_pod_host(&topic.name, &topic.namespace, ordinal))
        })
        .collect();
    let open = async |make: fn(&Authority, OffsetDateTime) -> Result<User, AuthorityError>| {
        let authority = authority.clone();
        let source: Source = Arc::new(move || identity(&authority, make));
        connect::connect("tidegate-operator", &servers, source).await.map_err(|error| Error::Broker(error.to_string()))
    };
    let system = open(Authority::system_user).await?;
    let client = open(Authority::operator_user).await?;
    let servers = usize::try_from(replicas).unwrap_or(1);
    Ok(Broker::new(client, System::new(system, servers), authority.root))
}

fn identity(
    authority: &Authority,
    make: fn(&Authority, OffsetDateTime) -> Result<User, AuthorityError>,
) -> Result<Identity, Unreadable> {
    let now = OffsetDateTime::now_utc();
    let failed = |error: AuthorityError| Unreadable::new("operator", error);
    let user = make(authority, now).map_err(failed)?;
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
