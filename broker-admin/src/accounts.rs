//! Who may do what on a topic's broker (pure).
//!
//! | account | JetStream | users |
//! |---|---|---|
//! | system | – | the operator, to push accounts |
//! | topic | yes | the operator (everything), the ingress (publish events) |
//! | one per handler | no | its sidecars: pull and acknowledge its own consumer, write its own dead letters |
//!
//! Why an account per handler: whoever may send a request chooses the reply subject, and the server writes
//! there with its own rights; inside one account that reaches `$JS.API.STREAM.PURGE`. Replies of another
//! account's requests stay in that account. The imports carry activation tokens of the topic account for
//! exactly the handler's own subjects.

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::authority::{Authority, AuthorityError, LEAF_LIFETIME, RENEW_BEFORE};
use crate::jwt::{self, Claims};

const VERSION: u8 = 2;

/// A signed account.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// The account's public nkey.
    pub id: String,
    /// What it says, to compare with what a server has.
    pub claims: Claims,
    /// Signed by the topic's operator key.
    pub jwt: String,
}

/// A user: the JWT, and the seed with which it proves itself.
#[derive(Clone)]
pub struct User {
    /// The user JWT.
    pub jwt: String,
    /// The user's nkey seed.
    pub seed: String,
}

/// What a user may say and hear inside its account.
#[derive(Clone, Debug, PartialEq)]
pub struct Rights {
    /// Subjects it may publish to.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to.
    pub subscribe: Vec<String>,
}

impl Rights {
    fn all() -> Self {
        Self { publish: vec![">".into()], subscribe: vec![">".into()] }
    }

    fn ingress() -> Self {
        Self { publish: vec![layout::EVENT_SUBJECTS.into()], subscribe: vec!["_INBOX.>".into()] }
    }

    fn handler(handler: &str) -> Self {
        Self { publish: handler_subjects(handler).to_vec(), subscribe: vec!["_INBOX.>".into()] }
    }
}

/// Everything a handler may send: pull requests, acknowledgements, dead letters; each its own only.
fn handler_subjects(handler: &str) -> [String; 3] {
    [layout::pull_subject(handler), layout::acknowledge_subjects(handler), layout::dead_letter_subject(handler)]
}

impl Authority {
    /// The operator claim that the server's configuration carries.
    ///
    /// # Errors
    /// The authority is damaged (as everywhere below).
    pub fn operator_jwt(&self, now: OffsetDateTime) -> Result<String, AuthorityError> {
        let operator = self.operator_key()?;
        let claims = Claims {
            subject: operator.public_key(),
            name: "tidegate".into(),
            nats: json!({"type": "operator", "version": VERSION, "system_account": self.system_key()?.public_key()}),
            expires: None,
        };
        Ok(claims.sign(&operator, now)?)
    }

    /// The system account, in which accounts are pushed.
    pub fn system_account(&self, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        self.account(&self.system_key()?, "system", json!([]), json!([]), false, now)
    }

    /// The topic's account: JetStream, and what handlers may import with a token.
    pub fn topic_account(&self, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        let export = |name: &str, subject: String, response: &str| json!({"name": name, "subject": subject, "type": "service", "token_req": true, "response_type": response});
        let exports = json!([
            export("pull", layout::pull_subject("*"), "Stream"),
            export("acknowledge", layout::acknowledge_subjects("*"), "Singleton"),
            export("dead-letter", layout::DEAD_LETTER_SUBJECTS.into(), "Singleton"),
        ]);
        self.account(&self.topic_key()?, "topic", json!([]), exports, true, now)
    }

    /// The account of a handler, by its name and UID.
    pub fn handler_account(&self, handler: &str, uid: &str, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        let key = self.handler_key(uid)?;
        let topic = self.topic_key()?;
        let mut imports = Vec::new();
        for (name, subject) in ["pull", "acknowledge", "dead-letter"].iter().zip(handler_subjects(handler)) {
            let token = Claims {
                subject: key.public_key(),
                name: (*name).into(),
                nats: json!({"subject": subject, "kind": "service", "type": "activation", "version": VERSION}),
                expires: None,
            };
            imports.push(json!({
                "name": name, "subject": subject, "account": topic.public_key(), "type": "service",
                "token": token.sign(&topic, now)?,
            }));
        }
        self.account(&key, &format!("handler {handler}"), json!(imports), json!([]), false, now)
    }

    /// A handler's account that lets nobody in: pushed before it is deleted, it ends open connections at once.
    pub fn handler_tombstone(&self, handler: &str, uid: &str, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        let key = self.handler_key(uid)?;
        let mut account = self.account(&key, &format!("handler {handler}"), json!([]), json!([]), false, now)?;
        account.claims.nats["limits"]["conn"] = json!(0);
        account.claims.nats["revocations"] = json!({"*": now.unix_timestamp() + 1});
        account.jwt = account.claims.sign(&self.operator_key()?, now)?;
        Ok(account)
    }

    /// The claim that deletes these accounts from a server.
    pub fn deletion_jwt(&self, accounts: &[String], now: OffsetDateTime) -> Result<String, AuthorityError> {
        let operator = self.operator_key()?;
        let claims = Claims {
            subject: operator.public_key(),
            name: "delete".into(),
            nats: json!({"accounts": accounts, "type": "generic", "version": VERSION}),
            expires: None,
        };
        Ok(claims.sign(&operator, now)?)
    }

    /// The operator's own user of the system account.
    pub fn system_user(&self, now: OffsetDateTime) -> Result<User, AuthorityError> {
        self.user(&self.system_key()?, "operator", "user/system/operator", &Rights::all(), now)
    }

    /// The operator's own user of the topic account.
    pub fn operator_user(&self, now: OffsetDateTime) -> Result<User, AuthorityError> {
        self.user(&self.topic_key()?, "operator", "user/topic/operator", &Rights::all(), now)
    }

    /// The ingress's user of the topic account.
    pub fn ingress_user(&self, now: OffsetDateTime) -> Result<User, AuthorityError> {
        self.user(&self.topic_key()?, "ingress", "user/topic/ingress", &Rights::ingress(), now)
    }

    /// The user of a handler's sidecars.
    pub fn handler_user(&self, handler: &str, uid: &str, now: OffsetDateTime) -> Result<User, AuthorityError> {
        let label = format!("user/handler/{uid}");
        self.user(&self.handler_key(uid)?, handler, &label, &Rights::handler(handler), now)
    }

    /// Was this user JWT made for the same user, account and rights, and is it far from its end?
    pub fn is_current(&self, user: &User, jwt: &str, now: OffsetDateTime) -> bool {
        let (Some(wanted), Some(found)) = (jwt::payload(&user.jwt), jwt::payload(jwt)) else {
            return false;
        };
        let left = found["exp"].as_i64().unwrap_or(0) - now.unix_timestamp();
        ["iss", "sub", "name", "nats"].iter().all(|part| wanted[*part] == found[*part])
            && left > RENEW_BEFORE.whole_seconds()
    }

    fn account(
        &self,
        key: &KeyPair,
        name: &str,
        imports: Value,
        exports: Value,
        jetstream: bool,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        // JetStream's own limits are the streams' and the volume's.
        let storage = if jetstream { -1 } else { 0 };
        let claims = Claims {
            subject: key.public_key(),
            name: name.into(),
            nats: json!({
                "type": "account", "version": VERSION, "imports": imports, "exports": exports,
                "limits": {
                    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                    "conn": -1, "leaf": -1, "disk_storage": storage, "streams": storage, "consumer": storage,
                },
            }),
            expires: None,
        };
        let jwt = claims.sign(&self.operator_key()?, now)?;
        Ok(Account { id: key.public_key(), claims, jwt })
    }

    fn user(
        &self,
        account: &KeyPair,
        name: &str,
        label: &str,
        rights: &Rights,
        now: OffsetDateTime,
    ) -> Result<User, AuthorityError> {
        let key = self.key(KeyPairType::User, label)?;
        let claims = Claims {
            subject: key.public_key(),
            name: name.into(),
            nats: json!({
                "type": "user", "version": VERSION, "subs": -1, "data": -1, "payload": -1,
                "pub": {"allow": rights.publish}, "sub": {"allow": rights.subscribe},
            }),
            expires: Some(now + LEAF_LIFETIME),
        };
        Ok(User { jwt: claims.sign(account, now)?, seed: key.seed()? })
    }

    fn operator_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Operator, "operator")
    }

    fn system_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/system")
    }

    fn topic_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/topic")
    }

    fn handler_key(&self, uid: &str) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, &format!("account/handler/{uid}"))
    }
}
