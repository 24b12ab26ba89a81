//! The topics of a broker: accounts, streams, and the file that says to its ingresses which they are.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use tidegate_broker_admin::Usage;
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::serving::Ingresses;
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract::{KeyText, PublisherRule, Routing, ServedTopic, TOPICS_FILE, Topics};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::layout::ingress;
use tidegate_broker_client::{TopicId, message_id};
use tidegate_wire::nats::Client;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::files::{request, write_leaf};
use crate::wait::LIMIT;
use crate::{REQUEST_TIMEOUT, TestBroker, topic_id};

/// The storage of a topic: what the server has.
const STORAGE: u64 = u64::MAX;
/// The largest event of a topic, where a test does not say.
const MAX_EVENT_SIZE: usize = 1 << 20;

/// A topic beside the first one.
pub struct TopicHandle {
    /// Which one.
    pub id: TopicId,
    /// The operator's API in its account.
    pub admin: Broker,
    /// A client that is not ours, as the operator.
    pub operator: async_nats::Client,
}

impl TestBroker {
    /// Adds a topic that stores events.
    pub async fn add_topic(&self, id: &TopicId, topic: Topic) -> TopicHandle {
        self.add_account(id, Routing::Queued).await;
        let handle = self.open_topic(id).await;
        self.make_streams(&handle.admin, &topic).await;
        handle
    }

    /// Adds a topic that stores nothing.
    pub async fn add_direct_topic(&self, id: &TopicId) -> TopicHandle {
        self.add_account(id, Routing::Direct).await;
        self.open_topic(id).await
    }

    /// Connects to a topic's account as the operator.
    pub async fn open_topic(&self, id: &TopicId) -> TopicHandle {
        let user = || self.authority.operator_user(id, OffsetDateTime::now_utc()).expect("user");
        let admin = Broker::new(self.client(user()).await, REQUEST_TIMEOUT);
        let operator = self.client_at(user(), &self.servers()).await;
        TopicHandle { id: id.clone(), admin, operator }
    }

    /// Ends the ways to a topic, as the operator does with one whose events are retained. Its account stays: a server of a
    /// cluster takes streams without one for orphans, and does not serve them again when the account comes back.
    pub async fn close_topic(&self, id: &TopicId) {
        self.topics().retain(|(other, _)| other != id);
        self.push_ingress_account().await;
    }

    /// The folder of the file that says which topics there are, all of them with their default limits.
    pub fn topics_dir(&self) -> PathBuf {
        self.write_topics(|_| {})
    }

    /// The same, with some of them changed.
    pub fn write_topics(&self, mut change: impl FnMut(&mut ServedTopic)) -> PathBuf {
        self.write_file(|file| file.topics.iter_mut().for_each(&mut change))
    }

    /// The same, with anything of the file changed.
    pub fn write_file(&self, change: impl FnOnce(&mut Topics)) -> PathBuf {
        let topics = self.topics().iter().map(|(id, routing)| self.served(id, *routing)).collect();
        let mut file = Topics { topics, ..Topics::default() };
        change(&mut file);
        let text = serde_json::to_string(&file).expect("JSON");
        self.write_topics_file(text.as_bytes())
    }

    /// The same without this topic, whose account stays.
    pub fn remove_from_file(&self, id: &TopicId) {
        let topics = self
            .topics()
            .iter()
            .filter(|(other, _)| other != id)
            .map(|(id, routing)| self.served(id, *routing))
            .collect();
        let text = serde_json::to_string(&Topics { topics, ..Topics::default() }).expect("JSON");
        self.write_topics_file(text.as_bytes());
    }

    /// Where that file is, whether it was written or not.
    pub fn topics_folder(&self) -> PathBuf {
        self.folder.path().join("topics")
    }

    /// The same, with this content, which need not be one that means anything.
    pub fn write_topics_file(&self, content: &[u8]) -> PathBuf {
        let folder = self.topics_folder();
        std::fs::create_dir_all(&folder).expect("folder");
        // As the kubelet does it: whoever reads it finds the one or the other.
        let new = folder.join("new");
        std::fs::write(&new, content).expect("write");
        std::fs::rename(new, folder.join(TOPICS_FILE)).expect("rename");
        folder
    }

    /// A topic as its ingresses get to know it: everybody may publish to it. Its host is `<name>.<namespace>.test`; the first topic has `localhost`
    /// and `127.0.0.1`, too.
    pub fn served(&self, id: &TopicId, routing: Routing) -> ServedTopic {
        let mut hosts = vec![format!("{}.{}.test", id.name(), id.namespace())];
        if *id == topic_id() {
            hosts.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        }
        let key = self.authority.message_id_key(id).expect("key");
        ServedTopic {
            id: id.clone(),
            hosts,
            routing,
            max_event_size: MAX_EVENT_SIZE,
            message_id_key: KeyText::new(message_id::key_text(&key)),
            publishers: vec![PublisherRule::anonymous()],
            revision: "1".to_owned(),
        }
    }

    /// The operator's client in the account of the ingresses: it hears what they write, and what handlers report.
    pub async fn ingress_operator_client(&self) -> Client {
        self.client(self.authority.ingress_operator_user(OffsetDateTime::now_utc()).expect("user")).await
    }

    /// What the sidecars of all handlers report, as the operator hears it from now on.
    pub async fn reports(&self) -> async_nats::Subscriber {
        self.heard_by_operator(ingress::REPORTS).await
    }

    /// What the ingresses report, as the operator hears it from now on.
    pub async fn ingress_reports(&self) -> async_nats::Subscriber {
        self.heard_by_operator(ingress::INGRESS_REPORTS).await
    }

    async fn heard_by_operator(&self, subject: &'static str) -> async_nats::Subscriber {
        let user = self.authority.ingress_operator_user(OffsetDateTime::now_utc()).expect("user");
        let client = self.client_at(user, &self.servers()).await;
        let heard = client.subscribe(subject).await.expect("subscribed");
        client.flush().await.expect("flushed");
        heard
    }

    /// The operator's way to ask the ingresses, of which there are so many.
    pub async fn ingresses(&self, pods: usize) -> Ingresses {
        let user = self.authority.ingress_operator_user(OffsetDateTime::now_utc()).expect("user");
        Ingresses::new(self.client(user).await, pods)
    }

    /// The identity folder of the ingress.
    pub fn ingress_identity_dir(&self) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let folder = self.folder.path().join("ingress");
        write_leaf(&folder, &self.authority, &request("ingress", Usage::Client), now);
        for (name, own) in [(file::CERTIFICATE, file::CLIENT_CERTIFICATE), (file::KEY, file::CLIENT_KEY)] {
            std::fs::rename(folder.join(name), folder.join(own)).expect("rename");
        }
        let leaf = self.authority.leaf(&request("ingress", Usage::Server), now).expect("leaf");
        let user = self.authority.ingress_user(now).expect("user");
        let wake = self.authority.wake_user(now).expect("user");
        for (name, content) in [
            (file::CERTIFICATE, leaf.certificate),
            (file::KEY, leaf.key),
            (file::USER_JWT, user.jwt),
            (file::USER_SEED, user.seed),
            (file::WAKE_JWT, wake.jwt),
            (file::WAKE_SEED, wake.seed),
        ] {
            std::fs::write(folder.join(name), content).expect("write");
        }
        folder
    }

    /// Of the same, what it connects to the broker with, as every client has it.
    pub fn ingress_client_dir(&self) -> PathBuf {
        let user = self.authority.ingress_user(OffsetDateTime::now_utc()).expect("user");
        self.identity_dir("ingress-client", &user)
    }

    /// Of the same, what it wakes the server beside it with.
    pub fn wake_client_dir(&self) -> PathBuf {
        let user = self.authority.wake_user(OffsetDateTime::now_utc()).expect("user");
        self.identity_dir("wake-client", &user)
    }

    /// A client that is not ours, with the rights of the ingress; one for all that ask.
    pub async fn ingress(&self) -> async_nats::Client {
        let user = || self.authority.ingress_user(OffsetDateTime::now_utc()).expect("user");
        let servers = self.servers();
        self.ingress.get_or_init(|| self.client_at(user(), &servers)).await.clone()
    }

    /// Pushes the accounts of a topic and of the ingresses.
    pub(crate) async fn add_account(&self, id: &TopicId, routing: Routing) {
        let storage = (routing == Routing::Queued).then_some(STORAGE);
        let topic = self.authority.topic_account(id, routing, storage, OffsetDateTime::now_utc()).expect("account");
        self.push(&topic).await;
        self.topics().push((id.clone(), routing));
        self.push_ingress_account().await;
    }

    /// Pushes the account of the ingresses.
    pub async fn push_ingress_account(&self) {
        let topics = self.topics().clone();
        let account = self.authority.ingress_account(&topics, OffsetDateTime::now_utc()).expect("account");
        self.push(&account).await;
    }

    /// All servers have it then: a client may connect to any of them. Those of a cluster may not have found each other.
    async fn push(&self, account: &tidegate_broker_admin::accounts::Account) {
        let (system, begun) = (self.system().await, Instant::now());
        for server in 0..self.nodes.len() {
            let system = if self.nodes.len() == 1 { system.clone() } else { self.system_at(server).await };
            while let Err(error) = system.push(account).await {
                assert!(begun.elapsed() < LIMIT, "no account: {error}\n{}", self.log());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, Vec<(TopicId, Routing)>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
