//! Which account and user may do what on a topic's broker (pure).
//!
//! | account | JetStream | users |
//! |---|---|---|
//! | system | – | the operator, to push accounts |
//! | topic | yes, unless the topic is Direct | the operator (everything), the ingress (publish events, at once or
//! later, and answer publishers) |
//! | one per handler | no | its sidecars: see [`crate::guests`] |
//! | one per publisher over NATS | no | see [`crate::guests`] |

use std::time::Duration;

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::{later, layout};
use time::OffsetDateTime;

use crate::authority::{Authority, AuthorityError, LEAF_LIFETIME, RENEW_BEFORE};
use crate::guests;
use crate::jwt::{self, Claims};
use crate::limits::Limits;

/// The version of NATS's claims.
pub(crate) const VERSION: u8 = 2;
/// How long a server lets the ingress answer a request, well above what storing an event takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
    /// Whether it may answer each request it hears, once.
    pub answer: bool,
}

impl Rights {
    fn all() -> Self {
        Self { publish: vec![">".into()], subscribe: vec![">".into()], answer: false }
    }

    fn ingress() -> Self {
        Self {
            publish: [
                layout::EVENT_SUBJECTS,
                layout::INGRESS_REPORT_SUBJECT,
                later::DELAYED_SUBJECTS,
                later::PULL_SUBJECT,
                later::ACKNOWLEDGE_SUBJECTS,
                later::INFO_SUBJECT,
                later::PURGE_SUBJECT,
            ]
            .map(Into::into)
            .into(),
            subscribe: vec!["_INBOX.>".into(), layout::PUBLISH_SUBJECT.into()],
            answer: true,
        }
    }
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
        self.account(&self.system_key()?, "system", json!([]), json!([]), Limits::SYSTEM, now)
    }

    /// The topic's account: JetStream (unless nothing is stored), and what guests may import with a token.
    pub fn topic_account(&self, routing: Routing, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        let stored = routing == Routing::Queued;
        self.account(&self.topic_key()?, "topic", json!([]), guests::exports(routing), Limits::topic(stored), now)
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

    /// Was this user JWT made for the same user, account and rights, and is it far from its end?
    pub fn is_current(&self, user: &User, jwt: &str, now: OffsetDateTime) -> bool {
        let (Some(wanted), Some(found)) = (jwt::payload(&user.jwt), jwt::payload(jwt)) else {
            return false;
        };
        let left = found["exp"].as_i64().unwrap_or(0) - now.unix_timestamp();
        ["iss", "sub", "name", "nats"].iter().all(|part| wanted[*part] == found[*part])
            && left > RENEW_BEFORE.whole_seconds()
    }

    pub(crate) fn account(
        &self,
        key: &KeyPair,
        name: &str,
        imports: Value,
        exports: Value,
        limits: Limits,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        let limits = limits.claim(count(&imports), count(&exports));
        let claims = Claims {
            subject: key.public_key(),
            name: name.into(),
            nats: json!({
                "type": "account", "version": VERSION, "imports": imports, "exports": exports,
                "limits": limits,
            }),
            expires: None,
        };
        let jwt = claims.sign(&self.operator_key()?, now)?;
        Ok(Account { id: key.public_key(), claims, jwt })
    }

    pub(crate) fn user(
        &self,
        account: &KeyPair,
        name: &str,
        label: &str,
        rights: &Rights,
        now: OffsetDateTime,
    ) -> Result<User, AuthorityError> {
        let key = self.key(KeyPairType::User, label)?;
        let mut nats = json!({
            "type": "user", "version": VERSION, "subs": -1, "data": -1, "payload": -1,
            "pub": {"allow": rights.publish}, "sub": {"allow": rights.subscribe},
        });
        if rights.answer {
            nats["resp"] = json!({"max": 1, "ttl": u64::try_from(ANSWER_WITHIN.as_nanos()).unwrap_or(u64::MAX)});
        }
        let expires = Some(now + LEAF_LIFETIME);
        let claims = Claims { subject: key.public_key(), name: name.into(), nats, expires };
        Ok(User { jwt: claims.sign(account, now)?, seed: key.seed()? })
    }

    pub(crate) fn operator_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Operator, "operator")
    }

    fn system_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/system")
    }

    pub(crate) fn topic_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/topic")
    }
}
