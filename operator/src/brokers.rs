//! The operator's own connections: two for each topic, one in its account, one in the system account.
//!
//! A session with a task of its own makes them when a topic is first reconciled, makes them again when they are lost,
//! and ends with the topic. User JWTs and certificates are signed at each connect, so nothing of the operator's own is
//! stored anywhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::{Authority, AuthorityError, LeafRequest, Usage};
use tidegate_broker_client::connect;
use tidegate_broker_client::identity::{Identity, Source, Unreadable};
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_wire::nats::Client;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::error::Error;
use crate::names;

/// No request of the operator waits longer for a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A reconcile waits this long for a connection that is being made for the first time.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The client connects again by itself after short losses; longer ones are the session's.
const LOSS_GRACE: Duration = Duration::from_secs(10);
/// How often a session looks after its connections.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// Between two attempts to connect: doubled with each failure, and up to half of it more, so that many sessions do not
/// come at once.
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A broker that stays away is logged this often.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// Namespace and name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The addresses of a topic's broker pods, of which there are as many.
pub type Addresses = Arc<dyn Fn(&TopicKey, i32) -> Vec<String> + Send + Sync>;

/// A topic's broker, reached.
pub struct Broker {
    /// The topic's account: streams, consumers and stored messages.
    pub api: api::Broker,
    /// The system account.
    pub system: System,
    client: Client,
    system_client: Client,
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

    /// Of connections that are there.
    fn new(client: Client, system_client: Client, servers: usize) -> Self {
        let api = api::Broker::new(client.clone(), REQUEST_TIMEOUT);
        let system = System::new(system_client.clone(), servers);
        Self { api, system, client, system_client, answers: AtomicBool::new(true), places: Default::default() }
    }

    #[cfg(test)]
    pub(crate) async fn of_test(broker: &tidegate_test_broker::TestBroker) -> Self {
        let client = broker.admin_client();
        Self::new(client.clone(), client, 1)
    }

    pub(crate) fn is_connected(&self) -> bool {
        [&self.client, &self.system_client].iter().all(|client| client.link().borrow().connected)
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

/// How far a session is.
#[derive(Clone)]
enum Reach {
    /// It has only just begun.
    Begun,
    /// There are connections, or were a moment ago.
    Reached(Arc<Broker>),
    /// There are none; why.
    Away(String),
}

/// A topic's connections, kept by a task that ends with this.
struct Session {
    root: [u8; 32],
    reach: watch::Receiver<Reach>,
    hurry: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

/// All connections.
pub struct Brokers {
    sessions: Mutex<HashMap<TopicKey, Session>>,
    addresses: Addresses,
    news: Arc<Notify>,
}

impl Default for Brokers {
    /// In the cluster.
    fn default() -> Self {
        let host = |topic: &TopicKey, ordinal| names::broker_pod_host(&topic.name, &topic.namespace, ordinal);
        Self::new(Arc::new(move |topic, replicas| {
            (0..replicas).map(|ordinal| format!("tls://{}:{BROKER_PORT}", host(topic, ordinal))).collect()
        }))
    }
}

impl Brokers {
    /// At these addresses.
    pub fn new(addresses: Addresses) -> Self {
        Self { sessions: Mutex::default(), addresses, news: Arc::default() }
    }

    /// The topic's broker. Begins a session if there is none.
    ///
    /// # Errors
    /// It cannot be reached now. The session keeps trying.
    pub async fn get(&self, topic: &TopicKey, authority: &Authority, replicas: i32) -> Result<Arc<Broker>, Error> {
        let (mut reach, hurry) = self.session(topic, authority, replicas);
        let _ = timeout(FIRST_CONNECT_TIMEOUT, reach.wait_for(|reach| !matches!(reach, Reach::Begun))).await;
        let found = reach.borrow().clone();
        match found {
            Reach::Reached(broker) => broker.check(),
            Reach::Begun => Err(Error::Broker("connecting".into())),
            Reach::Away(why) => {
                hurry.notify_one();
                Err(Error::Broker(why))
            }
        }
    }

    fn session(&self, topic: &TopicKey, authority: &Authority, replicas: i32) -> (watch::Receiver<Reach>, Arc<Notify>) {
        let mut sessions = self.lock();
        if sessions.get(topic).is_none_or(|session| session.root != authority.root) {
            let (tell, reach) = watch::channel(Reach::Begun);
            let hurry = Arc::new(Notify::new());
            let keeper = Keeper {
                topic: topic.clone(),
                authority: authority.clone(),
                servers: (self.addresses)(topic, replicas),
                tell,
                hurry: hurry.clone(),
                news: self.news.clone(),
            };
            let task = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
            sessions.insert(topic.clone(), Session { root: authority.root, reach, hurry, _task: task });
        }
        let session = &sessions[topic];
        (session.reach.clone(), session.hurry.clone())
    }

    /// The topic's broker if there is a connection.
    pub fn known(&self, topic: &TopicKey) -> Option<Arc<Broker>> {
        self.lock().get(topic).and_then(Session::broker)
    }

    /// All brokers that were reached.
    pub fn reached(&self) -> HashMap<TopicKey, Arc<Broker>> {
        self.lock().iter().filter_map(|(topic, session)| Some((topic.clone(), session.broker()?))).collect()
    }

    /// Waits until some broker was reached or lost.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Ends the session of a topic that is no more.
    pub fn forget(&self, topic: &TopicKey) {
        self.lock().remove(topic);
    }

    /// Ends all sessions but these, however their topics went.
    pub(crate) fn keep(&self, is_alive: impl Fn(&TopicKey) -> bool) {
        self.lock().retain(|topic, _| is_alive(topic));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TopicKey, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn broker(&self) -> Option<Arc<Broker>> {
        match &*self.reach.borrow() {
            Reach::Reached(broker) => Some(broker.clone()),
            Reach::Begun | Reach::Away(_) => None,
        }
    }
}

/// The task of a session.
struct Keeper {
    topic: TopicKey,
    authority: Authority,
    servers: Vec<String>,
    tell: watch::Sender<Reach>,
    /// Somebody saw a sign that it is worth to try now.
    hurry: Arc<Notify>,
    news: Arc<Notify>,
}

impl Keeper {
    async fn run(self) {
        let (mut failures, mut logged) = (0, None::<Instant>);
        loop {
            match connect(&self.topic, &self.authority, &self.servers).await {
                Ok(broker) => {
                    failures = 0;
                    let broker = Arc::new(broker);
                    self.tell(Reach::Reached(broker.clone()));
                    until_lost(&broker).await;
                    self.tell(Reach::Away("the connection was lost: connecting again".into()));
                }
                Err(error) => {
                    failures += 1;
                    self.tell(Reach::Away(error.clone()));
                    if logged.is_none_or(|logged| logged.elapsed() >= LOG_PERIOD) {
                        let TopicKey { namespace, name } = &self.topic;
                        tracing::warn!(namespace, topic = name, failures, error, "the broker cannot be reached");
                        logged = Some(Instant::now());
                    }
                }
            }
            let pause = pause(failures, fastrand::f64());
            tokio::select! {
                () = sleep(pause) => {}
                () = async { sleep(MIN_PAUSE).await; self.hurry.notified().await } => {}
            }
        }
    }

    fn tell(&self, reach: Reach) {
        self.tell.send_replace(reach);
        self.news.notify_one();
    }
}

/// How long to wait after so many failures; `chance` is from 0 to 1.
fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled.min(MAX_PAUSE).mul_f64(1.0 + chance / 2.0)
}

async fn until_lost(broker: &Broker) {
    let mut connected = Instant::now();
    while connected.elapsed() < LOSS_GRACE {
        sleep(CHECK_PERIOD).await;
        if broker.is_connected() {
            connected = Instant::now();
        }
    }
}

async fn connect(topic: &TopicKey, authority: &Authority, servers: &[String]) -> Result<Broker, String> {
    let open = async |make: fn(&Authority, OffsetDateTime) -> Result<User, AuthorityError>| {
        let authority = authority.clone();
        let source: Source = Arc::new(move || identity(&authority, make));
        let name = format!("tidegate-operator {}/{}", topic.namespace, topic.name);
        let options = connect::options(&name, servers, source).map_err(|error| error.to_string())?;
        Client::connect(options).await.map_err(|error| error.to_string())
    };
    let system = open(Authority::system_user).await?;
    let client = open(Authority::operator_user).await?;
    Ok(Broker::new(client, system, servers.len()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_not_all_the_same() {
        let half_seconds = |failures, chance| pause(failures, chance).as_millis() / 500;
        assert_eq!([0, 1, 2, 3, 4].map(|failures| half_seconds(failures, 0.0)), [1, 1, 2, 4, 8]);
        for failures in [7, 20, u32::MAX] {
            assert_eq!(pause(failures, 0.0), MAX_PAUSE);
            assert_eq!(pause(failures, 1.0), MAX_PAUSE * 3 / 2);
        }
    }
}
