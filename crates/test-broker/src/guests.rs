//! Those that the broker lets in beside its operator and its ingresses: handlers and publishers, each with an identity
//! folder as its pod has it.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::{Usage, UserKey, guests, handler_streams, retries};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::identity::file;
use time::OffsetDateTime;

use crate::files::{request, write_leaf};
use crate::{TestBroker, topic_id};

/// Pods of each handler, at most.
const PODS: u32 = 16;

impl TestBroker {
    /// A handler with its consumer, account and identity folder.
    pub async fn handler(&self, name: &str, ack_wait: Duration) -> PathBuf {
        let handler = consumers::Handler {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ack_wait,
            max_ack_pending: consumers::max_ack_pending(4, 64),
            types: Vec::new(),
            start: Start::Latest,
            order: Order::None,
            is_suspended: false,
            is_draining: false,
        };
        self.handler_with(handler).await
    }

    /// The same, with all settings of the consumer.
    pub async fn handler_with(&self, handler: consumers::Handler) -> PathBuf {
        self.handler_of(&topic_id(), &self.admin(), handler).await
    }

    /// A handler of another topic, whose API this is.
    pub async fn handler_of(&self, topic: &TopicId, admin: &Broker, handler: consumers::Handler) -> PathBuf {
        handler_streams::ensure(admin, &handler.name, &handler.uid).await.expect("streams of the handler");
        retries::ensure(admin, &handler).await.expect("consumer of the retries");
        consumers::ensure(admin, &handler, &Position::default()).await.expect("consumer");
        let consumers::Handler { name, uid, order, .. } = handler;
        let topic = topic.clone();
        self.guest(guests::Handler { topic, name, uid, order, routing: Routing::Queued, pods: PODS }).await
    }

    /// A handler of a Direct topic: account and identity folder.
    pub async fn direct_handler(&self, name: &str) -> PathBuf {
        self.direct_handler_of(&topic_id(), name).await
    }

    /// The same of another topic.
    pub async fn direct_handler_of(&self, topic: &TopicId, name: &str) -> PathBuf {
        let (topic, name, uid) = (topic.clone(), name.to_owned(), format!("uid-{name}"));
        self.guest(guests::Handler { topic, name, uid, order: Order::None, routing: Routing::Direct, pods: PODS }).await
    }

    async fn guest(&self, handler: guests::Handler) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let account = self.authority.handler_account(&handler, None, now).expect("account");
        self.system().await.ensure(&account).await.expect("handler account");
        self.hand_out(&handler, &UserKey::first(None, None, now).expect("key"))
    }

    /// Writes a key of a handler into its identity folder, as the kubelet does with that of a Secret.
    pub fn hand_out(&self, handler: &guests::Handler, key: &UserKey) -> PathBuf {
        let user = self.authority.handler_user(handler, key, OffsetDateTime::now_utc()).expect("user");
        self.identity_dir(&format!("{}-{}", handler.topic.name(), handler.name), &user)
    }

    /// What a handler of the first topic with this consumer may reach.
    pub fn guest_of(handler: &consumers::Handler) -> guests::Handler {
        let consumers::Handler { name, uid, order, .. } = handler.clone();
        guests::Handler { topic: topic_id(), name, uid, order, routing: Routing::Queued, pods: PODS }
    }

    /// Refuses users of a handler whose JWT was signed before this, as when another key has been handed out.
    pub async fn refuse_before(&self, handler: &guests::Handler, before: OffsetDateTime) {
        let account = self.authority.handler_account(handler, Some(before), OffsetDateTime::now_utc());
        self.system().await.push(&account.expect("account")).await.expect("handler account");
    }

    /// A workload that publishes over NATS: account and identity folder.
    pub async fn publisher(&self, name: &str) -> PathBuf {
        self.publisher_of(&topic_id(), name).await
    }

    /// The same of another topic.
    pub async fn publisher_of(&self, topic: &TopicId, name: &str) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let account = self.authority.publisher_account(topic, name, None, now).expect("account");
        self.system().await.ensure(&account).await.expect("publisher account");
        let key = UserKey::first(None, None, now).expect("key");
        let user = self.authority.publisher_user(topic, name, &key, now).expect("user");
        self.identity_dir(&format!("{}-{name}", topic.name()), &user)
    }

    pub(crate) fn identity_dir(&self, name: &str, user: &User) -> PathBuf {
        let folder = self.folder.path().join(format!("identity-{name}"));
        write_leaf(&folder, &self.authority, &request(name, Usage::Client), OffsetDateTime::now_utc());
        std::fs::write(folder.join(file::USER_JWT), &user.jwt).expect("write");
        std::fs::write(folder.join(file::USER_SEED), &user.seed).expect("write");
        folder
    }
}
