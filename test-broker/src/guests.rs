//! Those that the broker lets in beside its operator: handlers, publishers and the ingress, each with an identity folder
//! as its pod has it.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::{Usage, guests, handler_streams, retries};
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::message_id;
use time::OffsetDateTime;

use crate::TestBroker;
use crate::files::{request, write_leaf};

/// Pods of each handler, at most.
const PODS: u32 = 16;

impl TestBroker {
    /// The identity folder of the ingress.
    pub fn ingress_identity_dir(&self) -> PathBuf {
        let user = self.authority.ingress_user(OffsetDateTime::now_utc()).expect("user");
        let folder = self.identity_dir("ingress", &user, Usage::Both);
        let key = self.authority.message_id_key().expect("key");
        std::fs::write(folder.join(file::MESSAGE_ID_KEY), message_id::key_text(&key)).expect("write");
        folder
    }

    /// A handler with its consumer, account and identity folder.
    pub async fn handler(&self, name: &str, ack_wait: Duration) -> PathBuf {
        let handler = consumers::Handler {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            replicas: 1,
            ack_wait,
            max_ack_pending: consumers::max_ack_pending(4, 64),
            types: Vec::new(),
            start: Start::Latest,
            order: Order::None,
            is_suspended: false,
        };
        self.handler_with(handler).await
    }

    /// The same, with all settings of the consumer.
    pub async fn handler_with(&self, handler: consumers::Handler) -> PathBuf {
        let admin = self.admin();
        handler_streams::ensure(&admin, &handler.name, &handler.uid).await.expect("streams of the handler");
        retries::ensure(&admin, &handler).await.expect("consumer of the retries");
        consumers::ensure(&admin, &handler, &Position::default()).await.expect("consumer");
        let consumers::Handler { name, uid, order, .. } = handler;
        self.guest(guests::Handler { name, uid, order, routing: Routing::Queued, pods: PODS }).await
    }

    /// A handler of a Direct topic: account and identity folder.
    pub async fn direct_handler(&self, name: &str) -> PathBuf {
        let (name, uid) = (name.to_owned(), format!("uid-{name}"));
        self.guest(guests::Handler { name, uid, order: Order::None, routing: Routing::Direct, pods: PODS }).await
    }

    async fn guest(&self, handler: guests::Handler) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let account = self.authority.handler_account(&handler, now).expect("account");
        self.system().await.ensure(&account).await.expect("handler account");
        let user = self.authority.handler_user(&handler, now).expect("user");
        self.identity_dir(&handler.name, &user, Usage::Client)
    }

    /// A workload that publishes over NATS: account and identity folder.
    pub async fn publisher(&self, name: &str) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let account = self.authority.publisher_account(name, now).expect("account");
        self.system().await.ensure(&account).await.expect("publisher account");
        let user = self.authority.publisher_user(name, now).expect("user");
        self.identity_dir(name, &user, Usage::Client)
    }

    fn identity_dir(&self, name: &str, user: &User, usage: Usage) -> PathBuf {
        let folder = self.folder.path().join(format!("identity-{name}"));
        let leaf = self.authority.leaf(&request(name, usage), OffsetDateTime::now_utc()).expect("leaf");
        write_leaf(&folder, &self.authority.ca_certificate, &leaf);
        std::fs::write(folder.join(file::USER_JWT), &user.jwt).expect("write");
        std::fs::write(folder.join(file::USER_SEED), &user.seed).expect("write");
        folder
    }
}
