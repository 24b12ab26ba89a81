//! The broker of this machine, as the operator sees to one: accounts, streams, consumers and identities.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api::{ApiError, Broker as Api};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::push::System;
use tidegate_broker_admin::server::Cluster;
use tidegate_broker_admin::{
    Authority, LeafRequest, Usage, UserKey, consumers, guests, handler_streams, retries, schedules, streams,
};
use tidegate_broker_client::contract::{Routing, TOPICS_FILE, TokenTrust, Topics};
use tidegate_broker_client::identity::{Identity, Source, file};
use tidegate_broker_client::message_id::{self, TopicKey};
use tidegate_broker_client::{TopicId, connect, layout};
use tidegate_operator::handler::subscribe;
use tidegate_operator::identity::authority::{self, Data};
use tidegate_operator::programs::{self, ServerPlace};
use tidegate_wire::nats;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::formed;
use super::project::{Handler, Project, Topic};
use super::state::State;
use crate::failure::Failure;

/// The host that is in all certificates.
pub const HOST: &str = "localhost";
/// The file with the authority of the topics' addresses, for whoever publishes.
pub const CA_FILE: &str = "ca.crt";
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to take streams: it has heard of its own cluster then.
const FORMATION: Duration = Duration::from_secs(30);
/// A request is not answered at all before. So none waits for long.
const FORMATION_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Where the server's ports are.
#[derive(Clone, Copy, Debug)]
pub struct ServerPorts {
    /// Of clients.
    pub client: u16,
    /// Of its monitoring.
    pub monitor: u16,
    /// Of routes, which it has to itself.
    pub route: u16,
    /// Where it is woken.
    pub wake: u16,
}

impl ServerPorts {
    /// Where the programs reach it.
    pub fn servers(&self) -> Vec<String> {
        vec![format!("tls://{HOST}:{}", self.client)]
    }
}

/// Writes all that the server and the ingress read when they start: configuration, certificates, and the seed of a server
/// that has never run.
///
/// # Errors
/// It cannot be written, or the authority is damaged.
pub fn prepare(state: &State, authority: &Authority, project: &Project, ports: ServerPorts) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let hosts = || vec![HOST.to_owned()];
    let server = LeafRequest { name: "tidegate dev".into(), hosts: hosts(), usage: Usage::Server };
    let tls = state.write_folder(
        "nats-tls",
        &authority::identity(authority, None, &server, None, now).map_err(Failure::failed)?,
    )?;
    let route = LeafRequest { name: "tidegate dev".into(), hosts: hosts(), usage: Usage::Peer };
    let data = authority::identity(authority, None, &route, None, now).map_err(Failure::failed)?;
    let route_tls = state.write_folder("nats-routes", &data)?;
    let ingress = LeafRequest { name: "tidegate dev ingress".into(), hosts: hosts(), usage: Usage::Server };
    let user = authority.ingress_user(now).map_err(Failure::failed)?;
    let mut data = Data::new();
    for (leaf, names) in [
        (&ingress, [file::CERTIFICATE, file::KEY]),
        (&LeafRequest::client("ingress"), [file::CLIENT_CERTIFICATE, file::CLIENT_KEY]),
    ] {
        authority::add_leaf(&mut data, authority, leaf, names, now).map_err(Failure::failed)?;
    }
    authority::add_trust(&mut data, authority, Usage::Client);
    authority::add_user(&mut data, authority, &user, [file::USER_JWT, file::USER_SEED], now);
    let wake = authority.wake_user(now).map_err(Failure::failed)?;
    authority::add_user(&mut data, authority, &wake, [file::WAKE_JWT, file::WAKE_SEED], now);
    state.write_folder("ingress", &data)?;
    state.write(CA_FILE, &authority.trusted_servers())?;
    let store = state.folder("events")?;
    let shown = |path: &Path| path.display().to_string();
    let place = ServerPlace {
        port: ports.client,
        monitor: format!("127.0.0.1:{}", ports.monitor),
        wake: format!("127.0.0.1:{}", ports.wake),
        data: shown(&store),
        tls: shown(&tls),
        pid_file: None,
        cluster: Cluster {
            name: "dev".into(),
            port: ports.route,
            routes: vec![format!("nats://{HOST}:{}", ports.route)],
            tls: shown(&route_tls),
        },
    };
    let server = programs::server(authority, &project.broker, place).map_err(Failure::failed)?;
    formed::write(&store, &server.system_account).map_err(Failure::failed)?;
    state.write("nats.conf", &server.render()).map(drop)
}

/// What the ingress is told of its topics.
///
/// # Errors
/// The authority is damaged, or the file cannot be written.
pub fn write_topics(state: &State, authority: &Authority, topics: &[Topic], trust: &TokenTrust) -> Result<(), Failure> {
    let mut served = Vec::with_capacity(topics.len());
    for topic in topics {
        let key = authority.message_id_key(topic.id()).map_err(Failure::failed)?;
        served.push(topic.served.served(message_id::key_text(&key)));
    }
    let file = Topics { topics: served, tokens: Some(trust.clone()), ..Topics::default() };
    state.folder("topics")?;
    let text = serde_json::to_string(&file).map_err(Failure::failed)?;
    state.write(&format!("topics/{TOPICS_FILE}"), &text).map(drop)
}

/// The operator's connections to the server.
pub struct Broker {
    authority: Authority,
    servers: Vec<String>,
    system: System,
    topics: HashMap<TopicId, Api>,
    /// What the accounts were last made for.
    accounts: Option<Vec<(TopicId, Routing, Option<u64>)>>,
    is_formed: bool,
}

impl Broker {
    /// Connects to a server that listens.
    ///
    /// # Errors
    /// It does not let the operator in.
    pub async fn connect(authority: Authority, servers: Vec<String>) -> Result<Self, Failure> {
        let client = open(&authority, &servers, |authority, now| authority.system_user(now)).await?;
        Ok(Self {
            authority,
            servers,
            system: System::new(client, 1),
            topics: HashMap::new(),
            accounts: None,
            is_formed: false,
        })
    }

    /// Makes the accounts of topics, and that of the ingress, be as they should. Those that are stay as they are: whoever
    /// is just connecting is not disturbed.
    ///
    /// # Errors
    /// The server refuses, or is away.
    pub async fn ensure_accounts(&mut self, topics: &[Topic]) -> Result<(), Failure> {
        let promised = |topic: &Topic| {
            let storage = (topic.settings.routing == Routing::Queued).then_some(topic.settings.promised);
            (topic.id().clone(), topic.settings.routing, storage)
        };
        let wanted: Vec<_> = topics.iter().map(promised).collect();
        if self.accounts.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.accounts = None;
        let now = OffsetDateTime::now_utc();
        for (topic, routing, storage) in &wanted {
            let account = self.authority.topic_account(topic, *routing, *storage, now);
            self.system.push(&account.map_err(Failure::failed)?).await.map_err(Failure::failed)?;
        }
        let all: Vec<_> = wanted.iter().map(|(topic, routing, _)| (topic.clone(), *routing)).collect();
        let account = self.authority.ingress_account(&all, now).map_err(Failure::failed)?;
        self.system.push(&account).await.map_err(Failure::failed)?;
        self.accounts = Some(wanted);
        Ok(())
    }

    /// Makes topics be as they should: accounts, streams, schedules. A topic that is not among them is served no longer,
    /// and keeps its events.
    ///
    /// # Errors
    /// The server refuses, or is away.
    pub async fn ensure_topics(&mut self, topics: &[Topic]) -> Result<(), Failure> {
        self.ensure_accounts(topics).await?;
        for topic in topics.iter().filter(|topic| topic.settings.routing == Routing::Queued) {
            let api = self.api(topic.id()).await?;
            self.until_formed(topic.id()).await?;
            make_streams(&api, topic).await?;
            let refused = schedules::ensure(&api, &topic.settings.schedules).await.map_err(Failure::failed)?;
            if let Some(refused) = refused.first() {
                return Err(Failure::Usage(format!(
                    "EventTopic {}: spec.schedules: {}: {}",
                    topic.id(),
                    refused.name,
                    refused.why
                )));
            }
        }
        Ok(())
    }

    /// Makes a handler's place be as it should, and answers with the files by which its sidecar proves itself.
    ///
    /// # Errors
    /// The server refuses, or is away.
    pub async fn ensure_handler(&mut self, handler: &Handler) -> Result<Data, Failure> {
        let failed = |what: &dyn std::fmt::Display| Failure::Failed(format!("handler {}: {what}", handler.name));
        if handler.routing == Routing::Queued {
            let api = self.api(&handler.topic).await?;
            let wanted = subscribe::consumers_of(&handler.known_as, &handler.uid(), &handler.settings);
            let streams = handler_streams::ensure(&api, &handler.known_as, &handler.uid()).await;
            streams.map_err(|error| failed(&error))?;
            retries::ensure(&api, &wanted).await.map_err(|error| failed(&error))?;
            consumers::ensure(&api, &wanted, &Position::default()).await.map_err(|error| failed(&error))?;
        }
        let now = OffsetDateTime::now_utc();
        let key = UserKey::first(None, None, now).map_err(Failure::failed)?;
        let guest = guest(handler);
        let account = self.authority.handler_account(&guest, key.record.refused_before, now);
        self.system.push(&account.map_err(Failure::failed)?).await.map_err(|error| failed(&error))?;
        let user = self.authority.handler_user(&guest, &key, now).map_err(Failure::failed)?;
        let leaf = LeafRequest { name: format!("handler {}", handler.name), hosts: Vec::new(), usage: Usage::Client };
        let mut data = authority::identity(&self.authority, None, &leaf, Some(&user), now).map_err(Failure::failed)?;
        for to in handler.destinations() {
            let id = TopicId::new(&handler.namespace, to).map_err(Failure::usage)?;
            let key = TopicKey::new(&self.authority.message_id_key(&id).map_err(Failure::failed)?);
            data.insert(file::message_id_key_for(to), key.handler_key_text(&handler.uid()));
        }
        Ok(data)
    }

    /// Takes a handler's place away, as when its resource is deleted. Its dead letters stay.
    ///
    /// # Errors
    /// The server refuses, or is away.
    pub async fn remove_handler(&mut self, handler: &Handler) -> Result<(), Failure> {
        let (name, uid) = (&handler.known_as, handler.uid());
        self.system.remove_handler(&self.authority, name, &uid).await.map_err(Failure::failed)?;
        if handler.routing == Routing::Queued {
            let api = self.api(&handler.topic).await?;
            consumers::delete(&api, name).await.map_err(Failure::failed)?;
            handler_streams::remove(&api, name).await.map_err(Failure::failed)?;
        }
        Ok(())
    }

    /// Waits until the server's cluster, which is itself, has a leader.
    async fn until_formed(&mut self, topic: &TopicId) -> Result<(), Failure> {
        if self.is_formed {
            return Ok(());
        }
        let id = topic.clone();
        let user = move |authority: &Authority, now| authority.operator_user(&id, now);
        let api = Api::new(open(&self.authority, &self.servers, user).await?, FORMATION_TIMEOUT);
        let begun = Instant::now();
        loop {
            match api.stream(layout::EVENT_STREAM).await {
                Ok(_) | Err(ApiError::NotFound(_)) => break,
                Err(error) if begun.elapsed() > FORMATION => {
                    return Err(Failure::Failed(format!("nats-server: {error}: see its log")));
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
        self.is_formed = true;
        Ok(())
    }

    async fn api(&mut self, topic: &TopicId) -> Result<Api, Failure> {
        if let Some(api) = self.topics.get(topic) {
            return Ok(api.clone());
        }
        let id = topic.clone();
        let user = move |authority: &Authority, now| authority.operator_user(&id, now);
        let api = Api::new(open(&self.authority, &self.servers, user).await?, REQUEST_TIMEOUT);
        self.topics.insert(topic.clone(), api.clone());
        Ok(api)
    }
}

/// A server refuses streams until it has heard from its cluster, which is itself, although it answers.
async fn make_streams(api: &Api, topic: &Topic) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match streams::ensure(api, &topic.settings.streams).await {
            Ok(made) => {
                return match made.refused {
                    Some(why) => Err(Failure::Failed(format!(
                        "EventTopic {}: the broker does not change its streams: {why}: take the change back, or begin without the events by --fresh",
                        topic.id()
                    ))),
                    None => Ok(()),
                };
            }
            Err(error) if begun.elapsed() > FORMATION => {
                return Err(Failure::Failed(format!("EventTopic {}: {error}", topic.id())));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// What the handler may reach.
fn guest(handler: &Handler) -> guests::Handler {
    guests::Handler {
        topic: handler.topic.clone(),
        name: handler.known_as.clone(),
        uid: handler.uid(),
        routing: handler.routing,
        order: handler.settings.delivery.order,
        pods: handler.settings.max_replicas,
    }
}

async fn open(
    authority: &Authority,
    servers: &[String],
    user: impl Fn(&Authority, OffsetDateTime) -> Result<User, tidegate_broker_admin::AuthorityError> + Send + Sync + 'static,
) -> Result<nats::Client, Failure> {
    let authority = authority.clone();
    let source: Source = Arc::new(move || {
        let now = OffsetDateTime::now_utc();
        let failed = |error| tidegate_broker_client::identity::Unreadable::new("tidegate dev", error);
        let user = user(&authority, now).map_err(failed)?;
        let request = LeafRequest::client("operator");
        let leaf = authority.leaf(&request, now).map_err(failed)?;
        Ok(Identity {
            ca: authority.trusted_servers(),
            certificate: leaf.certificate,
            key: leaf.key,
            user_jwt: user.jwt,
            user_seed: user.seed,
        })
    });
    let options = connect::options("tidegate dev", servers, source).map_err(Failure::failed)?;
    let connected = nats::Client::connect(options).await;
    connected.map_err(|error| Failure::Failed(format!("nats-server does not let the operator in: {error}")))
}
