//! Which account and user may do what on a broker (pure).
//!
//! | account | JetStream | users |
//! |---|---|---|
//! | system | – | the operator, to push accounts |
//! | one per topic | yes, unless the topic is Direct | the operator (everything) |
//! | ingress | no | the ingresses, the operator to ask them: see [`crate::ingress`] |
//! | wake | no | the ingresses, to wake the server beside them: [`tidegate_broker_client::wake`] |
//! | one per handler | no | its sidecars: see [`crate::guests`] |
//! | one per publisher over NATS | no | see [`crate::guests`] |
//!
//! Keys of the operator's and the ingresses' users are derived; those of handlers and publishers are random, and can be
//! replaced: [`crate::user_key`].

use std::time::Duration;

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout::ingress;
use time::OffsetDateTime;

use crate::authority::{Authority, AuthorityError};
use crate::guests;
use crate::issuers::{LEAF_LIFETIME, RENEW_BEFORE};
use crate::jwt::{self, Claims};
use crate::limits::Limits;
use crate::user_key::UserKey;

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
    /// Signed by the broker's operator key.
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
    pub(crate) fn all() -> Self {
        Self { publish: vec![">".into()], subscribe: vec![">".into()], answer: false }
    }

    fn none() -> Self {
        Self { publish: Vec::new(), subscribe: Vec::new(), answer: false }
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

    /// A topic's account: what guests may import with a token, and what the ingress may ask for. `storage`: bytes that
    /// its streams may have, each times its copies, from 2^63 on without a bound; `None`: nothing is stored.
    pub fn topic_account(
        &self,
        topic: &TopicId,
        routing: Routing,
        storage: Option<u64>,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        let (key, name) = (self.topic_key(topic)?, format!("topic {topic}"));
        let mut account =
            self.account(&key, &name, json!([]), guests::exports(routing), Limits::topic(storage), now)?;
        let mapping = |(from, to): (String, &str)| (from, json!([{"subject": to, "weight": 100}]));
        let mappings: serde_json::Map<String, Value> = ingress::mappings(routing).into_iter().map(mapping).collect();
        account.claims.nats["mappings"] = Value::Object(mappings);
        account.jwt = account.claims.sign(&self.operator_key()?, now)?;
        Ok(account)
    }

    /// A topic's account that lets no one in and has no JetStream: pushed before it is deleted, it ends open connections
    /// at once. What its streams keep stays on the disk.
    pub fn topic_tombstone(&self, topic: &TopicId, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        self.tombstone(&self.topic_key(topic)?, &format!("topic {topic}"), now)
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

    /// The account of the connections that wake servers. It has nothing, and every server knows it from its start.
    pub fn wake_account(&self, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        self.account(&self.wake_key()?, "wake", json!([]), json!([]), Limits::WAKE, now)
    }

    /// The user that wakes a server. It may say nothing and hear nothing.
    pub fn wake_user(&self, now: OffsetDateTime) -> Result<User, AuthorityError> {
        self.user(&self.wake_key()?, "wake", "user/wake", &Rights::none(), now)
    }

    /// The id of a topic's account.
    pub fn topic_account_id(&self, topic: &TopicId) -> Result<String, AuthorityError> {
        Ok(self.topic_key(topic)?.public_key())
    }

    /// The operator's own user of a topic's account.
    pub fn operator_user(&self, topic: &TopicId, now: OffsetDateTime) -> Result<User, AuthorityError> {
        self.user(&self.topic_key(topic)?, "operator", &format!("user/topic/{topic}/operator"), &Rights::all(), now)
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

    /// An account that lets no one in: pushed before it is deleted, it ends open connections at once.
    pub(crate) fn tombstone(&self, key: &KeyPair, name: &str, now: OffsetDateTime) -> Result<Account, AuthorityError> {
        let mut account = self.account(key, name, json!([]), json!([]), Limits::TOMBSTONE, now)?;
        account.claims.nats["revocations"] = json!({"*": now.unix_timestamp() + 1});
        account.jwt = account.claims.sign(&self.operator_key()?, now)?;
        Ok(account)
    }

    /// The same account, which refuses users whose JWT was signed before this.
    pub(crate) fn refusing(
        &self,
        mut account: Account,
        before: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        if let Some(before) = before {
            // A server refuses what was signed at that second too.
            account.claims.nats["revocations"] = json!({"*": before.unix_timestamp() - 1});
            account.jwt = account.claims.sign(&self.operator_key()?, now)?;
        }
        Ok(account)
    }

    /// A user of the operator's or the ingresses', whose key is derived.
    pub(crate) fn user(
        &self,
        account: &KeyPair,
        name: &str,
        label: &str,
        rights: &Rights,
        now: OffsetDateTime,
    ) -> Result<User, AuthorityError> {
        signed_user(account, name, &self.key(KeyPairType::User, label)?, rights, now)
    }

    /// A user with this key.
    pub(crate) fn user_with(
        &self,
        account: &KeyPair,
        name: &str,
        key: &UserKey,
        rights: &Rights,
        now: OffsetDateTime,
    ) -> Result<User, AuthorityError> {
        let pair = key.pair().ok_or_else(|| AuthorityError::Damaged("the seed of a user".to_owned()))?;
        signed_user(account, name, &pair, rights, key.signing_time(now))
    }

    pub(crate) fn operator_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Operator, "operator")
    }

    fn system_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/system")
    }

    fn wake_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/wake")
    }

    pub(crate) fn topic_key(&self, topic: &TopicId) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, &format!("account/topic/{topic}"))
    }
}

/// What the JWT of a user says but for its key and its times: while that is the same, none has to be signed again before
/// its end.
pub(crate) fn user_claims(account: &KeyPair, name: &str, rights: &Rights) -> Value {
    json!({"iss": account.public_key(), "name": name, "nats": permissions(rights)})
}

fn permissions(rights: &Rights) -> Value {
    let mut nats = json!({
        "type": "user", "version": VERSION, "subs": -1, "data": -1, "payload": -1,
        "pub": permission(&rights.publish), "sub": permission(&rights.subscribe),
    });
    if rights.answer {
        nats["resp"] = json!({"max": 1, "ttl": u64::try_from(ANSWER_WITHIN.as_nanos()).unwrap_or(u64::MAX)});
    }
    nats
}

fn signed_user(
    account: &KeyPair,
    name: &str,
    key: &KeyPair,
    rights: &Rights,
    now: OffsetDateTime,
) -> Result<User, AuthorityError> {
    let nats = permissions(rights);
    let expires = Some(now + LEAF_LIFETIME);
    let claims = Claims { subject: key.public_key(), name: name.into(), nats, expires };
    Ok(User { jwt: claims.sign(account, now)?, seed: key.seed()? })
}

/// A server takes an empty list of what is allowed for no limit at all.
fn permission(allowed: &[String]) -> Value {
    if allowed.is_empty() { json!({"deny": [">"]}) } else { json!({"allow": allowed}) }
}
