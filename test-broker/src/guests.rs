//! Those that the broker lets in beside its operator and its ingresses: handlers and publishers, each with an identity
//! folder as its pod has it.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::{Usage, guests, handler_streams, retries};
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
        let account = self.authority.handler_account(&handler, now).expect("account");
        self.system().await.ensure(&account).await.expect("handler account");
        let user = self.authority.handler_user(&handler, now).expect("user");
        self.identity_dir(&format!("{}-{}", handler.topic.name(), handler.name), &user, Usage::Client)
    }

    /// A workload that publishes over NATS: account and identity folder.
    pub async fn publisher(&self, name: &str) -> PathBuf {
        self.publisher_of(&topic_id(), name).await
    }

    /// The same of another topic.
    pub async fn publisher_of(&self, topic: &TopicId, name: &str) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let account = self.authority.publisher_account(topic, name, now).expect("account");
        self.system().await.ensure(&account).await.expect("publisher account");
        let user = self.authority.publisher_user(topic, name, now).expect("user");
        self.identity_dir(&format!("{}-{name}", topic.name()), &user, Usage::Client)
    }

    pub(crate) fn identity_dir(&self, name: &str, user: &User, usage: Usage) -> PathBuf {
        let folder = self.folder.path().join(format!("identity-{name}"));
        let leaf = self.authority.leaf(&request(name, usage), OffsetDateTime::now_utc()).expect("leaf");
        write_leaf(&folder, &self.authority.ca_certificate, &leaf);
        std::fs::write(folder.join(file::USER_JWT), &user.jwt).expect("write");
        std::fs::write(folder.join(file::USER_SEED), &user.seed).expect("write");
        folder
    }
}
