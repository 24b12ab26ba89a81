//! What handlers and publishers may do on a broker (pure).
//!
//! Each has an account of its own, because whoever may send a request chooses the reply subject, and the server
//! writes there with its own rights: inside one account that reaches `$JS.API.STREAM.PURGE`. Replies to another
//! account's requests stay in that account. The topic account exports a few services to handlers, the account of the
//! ingresses one to publishers and one to handlers; a guest's imports carry activation tokens of that account for exactly the guest's own
//! subjects.

use std::collections::BTreeSet;

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::{TopicId, layout};
use time::OffsetDateTime;

use crate::accounts::{Account, Rights, User, VERSION, user_claims};
use crate::authority::{Authority, AuthorityError};
use crate::ingress;
use crate::jwt::Claims;
use crate::limits::Limits;
use crate::user_key::UserKey;

/// A handler, as far as its rights depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// The topic whose events it gets.
    pub topic: TopicId,
    /// The EventHandler's name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// How the topic's events travel.
    pub routing: Routing,
    /// Which consumers it has.
    pub order: Order,
    /// How many pods it has at most.
    pub pods: u32,
}

/// Whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exporter {
    Topic,
    Ingress,
}

/// Something of another account that a guest uses.
pub(crate) struct Import {
    exporter: Exporter,
    name: &'static str,
    kind: &'static str,
    subject: String,
    /// Its name in the guest's account, where that must differ.
    local: Option<String>,
    /// What its user may publish to for it, where that is wider than the subject itself.
    permission: Option<String>,
}

impl Import {
    pub(crate) fn service(name: &'static str, subject: String) -> Self {
        Self { exporter: Exporter::Topic, name, kind: "service", subject, local: None, permission: None }
    }

    /// A service of one consumer: `subject` in the topic account, `local` in the guest's.
    ///
    /// The user's permission is for any consumer, because a user JWT is part of the line with which a client
    /// connects, and the server reads no line of more than 4 KiB: a handler has up to 32 consumers with names of 43
    /// characters. It allows nothing more: the account has nothing but its imports, and those name the consumer.
    fn of_consumer(name: &'static str, consumer: &str, subject: fn(&str) -> String, local: fn(&str) -> String) -> Self {
        let imported = Self { permission: Some(local("*")), ..Self::service(name, subject(consumer)) };
        let (subject, local) = (subject(consumer), local(consumer));
        if subject == local { imported } else { imported.known_as(local) }
    }

    pub(crate) fn known_as(self, local: String) -> Self {
        Self { local: Some(local), ..self }
    }

    fn local_subject(&self) -> &str {
        self.local.as_deref().unwrap_or(&self.subject)
    }

    fn permission(&self) -> &str {
        self.permission.as_deref().unwrap_or_else(|| self.local_subject())
    }
}

impl Handler {
    /// Its consumers' names; none on a Direct topic.
    pub fn consumers(&self) -> Vec<String> {
        match (self.routing, self.order) {
            (Routing::Direct, _) => Vec::new(),
            (Routing::Queued, Order::None) => vec![self.name.clone()],
            (Routing::Queued, Order::Key { lanes }) => {
                (0..lanes).map(|lane| layout::lane_consumer(&self.name, lane)).collect()
            }
        }
    }

    fn imports(&self) -> Vec<Import> {
        let report = Import::service("report", layout::ingress::report_subject(&self.topic, &self.name));
        let report = report.known_as(layout::report_subject(&self.name));
        let mut imports = vec![Import { exporter: Exporter::Ingress, ..report }];
        if self.routing == Routing::Direct {
            imports.push(Import {
                exporter: Exporter::Ingress,
                name: "events",
                kind: "stream",
                subject: layout::ingress::direct_events(&self.topic),
                local: Some(layout::EVENT_SUBJECTS.into()),
                permission: None,
            });
            return imports;
        }
        imports.extend([
            Import::service("dead-letter", layout::dead_letter_subject(&self.name)),
            Import::service("attempts", layout::attempt_subject(&self.name, "*")),
            Import::service("attempts so far", layout::attempt_read_subject(&self.name, "*")),
        ]);
        imports.extend(self.retry_imports());
        for consumer in self.consumers() {
            let import = |name, subject, local| Import::of_consumer(name, &consumer, subject, local);
            imports.push(import("pull", layout::pull_subject, layout::pull_subject));
            imports.push(import("acknowledge", layout::acknowledge_subjects, layout::acknowledge_subjects));
            if self.order != Order::None {
                imports.push(import("state of a lane", layout::info_subject, layout::local_info_subject));
                imports.push(import("leave a lane", layout::unpin_subject, layout::local_unpin_subject));
            }
        }
        imports
    }

    /// What it does with its retries: with `order: None` a consumer reads what waits and removes what is acknowledged,
    /// with `order: Key` the sidecars list, read and remove what is parked.
    fn retry_imports(&self) -> Vec<Import> {
        let handler = self.name.as_str();
        match self.order {
            Order::None => vec![
                Import::service("wait for a retry", layout::waiting_subject(handler)),
                Import::service("pull retries", layout::retry_pull_subject(handler)),
                Import::service("acknowledge retries", layout::retry_acknowledge_subjects(handler)),
            ],
            Order::Key { .. } => vec![
                Import::service("park", layout::parked_subjects(handler, None)),
                Import::service("hold a key", layout::held_subjects(handler, None)),
                Import::service("list what is parked", layout::retry_info_subject(handler))
                    .known_as(layout::local_retry_info_subject(handler)),
                Import::service("read what is parked", layout::retry_read_subject(handler))
                    .known_as(layout::local_retry_read_subject(handler)),
                Import::service("remove what is parked", layout::retry_delete_subject(handler))
                    .known_as(layout::local_retry_delete_subject(handler)),
            ],
        }
    }

    fn rights(&self) -> Rights {
        let imports = self.imports();
        let (streams, services): (Vec<_>, Vec<_>) = imports.iter().partition(|import| import.kind == "stream");
        let own = ["_INBOX.>".to_owned(), layout::MEMBER_SUBJECT.to_owned()];
        // Queue groups reach across accounts: only as the group of its own name it takes no one else's events.
        let queued = |import: &&Import| format!("{} {}", import.local_subject(), self.name);
        let publish: BTreeSet<&str> =
            services.iter().map(|import| import.permission()).chain([layout::MEMBER_SUBJECT]).collect();
        Rights {
            publish: publish.into_iter().map(str::to_owned).collect(),
            subscribe: streams.iter().map(queued).chain(own).collect(),
            answer: false,
        }
    }
}

/// What a topic's account offers: to its handlers, if they have a token, and to the ingresses ([`crate::ingress`]).
pub(crate) fn exports(routing: Routing) -> Value {
    let service = |name: &str, subject: String, response: &str| json!({"name": name, "subject": subject, "type": "service", "token_req": true, "response_type": response});
    let mut exports = ingress::topic_exports(routing);
    if routing == Routing::Queued {
        exports.extend([
            // Of the stream of events and of those of retries: a token names one consumer.
            service("pull", layout::PULL_SUBJECTS.into(), "Stream"),
            service("acknowledge", layout::ACKNOWLEDGE_SUBJECTS.into(), "Singleton"),
            service("state of a lane", layout::info_subject("*"), "Singleton"),
            service("leave a lane", layout::unpin_subject("*"), "Singleton"),
            service("dead-letter", layout::DEAD_LETTER_SUBJECTS.into(), "Singleton"),
            service("attempts", layout::ATTEMPT_SUBJECTS.into(), "Singleton"),
            service("attempts so far", layout::ATTEMPT_READ_SUBJECTS.into(), "Singleton"),
            service("retries", layout::RETRY_SUBJECTS.into(), "Singleton"),
            service("list what is parked", layout::STREAM_INFO_SUBJECTS.into(), "Singleton"),
            service("read what is parked", layout::READ_SUBJECTS.into(), "Singleton"),
            service("remove what is parked", layout::DELETE_SUBJECTS.into(), "Singleton"),
        ]);
    }
    json!(exports)
}

fn publisher_rights() -> Rights {
    Rights { publish: vec![layout::PUBLISH_SUBJECT.into()], subscribe: vec!["_INBOX.>".into()], answer: false }
}

impl Authority {
    /// The account of a handler. Users whose JWT was signed before `refused_before` are refused, and their connections end.
    ///
    /// # Errors
    /// The authority is damaged (as everywhere below).
    pub fn handler_account(
        &self,
        handler: &Handler,
        refused_before: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        let name = format!("handler {}", handler.name);
        let key = self.handler_key(&handler.uid)?;
        let account =
            self.guest(&key, &name, (&handler.topic, &handler.imports()), Limits::handler(handler.pods), now)?;
        self.refusing(account, refused_before, now)
    }

    /// The user of a handler's sidecars, with this key.
    pub fn handler_user(&self, handler: &Handler, key: &UserKey, now: OffsetDateTime) -> Result<User, AuthorityError> {
        self.user_with(&self.handler_key(&handler.uid)?, &handler.name, key, &handler.rights(), now)
    }

    /// What the JWT of that user says but for its key and its times.
    pub fn handler_claims(&self, handler: &Handler) -> Result<Value, AuthorityError> {
        Ok(user_claims(&self.handler_key(&handler.uid)?, &handler.name, &handler.rights()))
    }

    /// A handler's account that lets no one in: pushed before it is deleted, it ends open connections at once.
    pub fn handler_tombstone(&self, handler: &str, uid: &str, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        self.tombstone(&self.handler_key(uid)?, &format!("handler {handler}"), now)
    }

    /// The account of a workload that publishes over NATS. `refused_before`: as of [`Self::handler_account`].
    pub fn publisher_account(
        &self,
        topic: &TopicId,
        name: &str,
        refused_before: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        let subject = layout::ingress::publish_subject(topic, name);
        let publish = Import::service("publish", subject).known_as(layout::PUBLISH_SUBJECT.into());
        let publish = [Import { exporter: Exporter::Ingress, ..publish }];
        let key = self.publisher_key(topic, name)?;
        let account =
            self.guest(&key, &format!("publisher {topic}/{name}"), (topic, &publish), Limits::PUBLISHER, now)?;
        self.refusing(account, refused_before, now)
    }

    /// The user of that workload, with this key.
    pub fn publisher_user(
        &self,
        topic: &TopicId,
        name: &str,
        key: &UserKey,
        now: OffsetDateTime,
    ) -> Result<User, AuthorityError> {
        self.user_with(&self.publisher_key(topic, name)?, name, key, &publisher_rights(), now)
    }

    /// What the JWT of that user says but for its key and its times.
    pub fn publisher_claims(&self, topic: &TopicId, name: &str) -> Result<Value, AuthorityError> {
        Ok(user_claims(&self.publisher_key(topic, name)?, name, &publisher_rights()))
    }

    /// A publisher's account that lets no one in.
    pub fn publisher_tombstone(
        &self,
        topic: &TopicId,
        name: &str,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        self.tombstone(&self.publisher_key(topic, name)?, &format!("publisher {topic}/{name}"), now)
    }

    /// An account that imports something of its topic's or the ingresses', whose keys sign the tokens for it.
    fn guest(
        &self,
        key: &KeyPair,
        name: &str,
        (topic, imports): (&TopicId, &[Import]),
        limits: Limits,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        let (topic, ingress) = (self.topic_key(topic)?, self.ingress_key()?);
        let mut signed = Vec::with_capacity(imports.len());
        for Import { exporter, name, kind, subject, local, permission: _ } in imports {
            let exporter = if *exporter == Exporter::Topic { &topic } else { &ingress };
            let token = Claims {
                subject: key.public_key(),
                name: (*name).into(),
                nats: json!({"subject": subject, "kind": kind, "type": "activation", "version": VERSION}),
                expires: None,
            };
            let mut import = json!({
                "name": name, "subject": subject, "account": exporter.public_key(), "type": kind,
                "token": token.sign(exporter, now)?,
            });
            if let Some(local) = local {
                import["local_subject"] = json!(local);
            }
            signed.push(import);
        }
        self.account(key, name, json!(signed), json!([]), limits, now)
    }

    fn handler_key(&self, uid: &str) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, &format!("account/handler/{uid}"))
    }

    fn publisher_key(&self, topic: &TopicId, name: &str) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, &format!("account/publisher/{topic}/{name}"))
    }
}
