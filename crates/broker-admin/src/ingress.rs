//! The account of a broker's ingresses (pure).
//!
//! It serves all topics of the broker over one connection of each ingress, and has no JetStream. What an ingress may do
//! in a topic's account it imports from there: [`tidegate_broker_client::layout::ingress`] has the subjects.
//!
//! Those imports need no token: only the operator pushes accounts, and signs them with a key that no pod has, so no
//! account imports anything that it does not write into it. The account stays small for that: a broker has up to
//! [`MAX_TOPICS`] topics, and each of its servers reads the account as a whole whenever a topic comes or goes.

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{MAX_TOPICS, Routing};
use tidegate_broker_client::layout::ingress::{self, TopicSubjects};
use time::OffsetDateTime;

use crate::accounts::{Account, Rights, User};
use crate::authority::{Authority, AuthorityError};
use crate::limits::Limits;

/// Bytes of the account's JWT at most, as it is pushed: a broker whose servers take no messages of that size does not
/// take it. Two names of 63 characters take it there.
pub const MAX_ACCOUNT: usize = 512 << 10;

/// What a topic's account offers the ingresses, without a token.
pub(crate) fn topic_exports(routing: Routing) -> Vec<Value> {
    let service =
        |subject: &str, response: &str| json!({"subject": subject, "type": "service", "response_type": response});
    match routing {
        // A pull has many answers.
        Routing::Queued => {
            vec![service(ingress::WRITE_SUBJECTS, "Singleton"), service(ingress::PULL_SUBJECT, "Stream")]
        }
        Routing::Direct => Vec::new(),
    }
}

fn imports(account: &str, topic: &TopicId, routing: Routing) -> Vec<Value> {
    let subjects = TopicSubjects::new(topic, routing);
    let service = |subject: &str, local: &str| json!({"subject": subject, "account": account, "type": "service", "local_subject": local});
    match routing {
        Routing::Queued => {
            vec![service(ingress::WRITE_SUBJECTS, &subjects.writes()), service(ingress::PULL_SUBJECT, subjects.pull())]
        }
        Routing::Direct => Vec::new(),
    }
}

impl Authority {
    /// The account of the ingresses of a broker with these topics. The topics' accounts must be on the broker before it.
    ///
    /// # Errors
    /// There are more than [`MAX_TOPICS`], or the authority is damaged.
    pub fn ingress_account(
        &self,
        topics: &[(TopicId, Routing)],
        now: OffsetDateTime,
    ) -> Result<Account, AuthorityError> {
        if topics.len() > MAX_TOPICS {
            return Err(AuthorityError::TooManyTopics(topics.len()));
        }
        let mut all = Vec::with_capacity(topics.len() * 2);
        for (topic, routing) in topics {
            all.extend(imports(&self.topic_key(topic)?.public_key(), topic, *routing));
        }
        let publish = json!({
            "name": "publish", "subject": ingress::PUBLISHES, "type": "service", "token_req": true,
            "response_type": "Singleton",
        });
        let direct = json!({
            "name": "events of Direct topics", "subject": ingress::DIRECT_SUBJECTS, "type": "stream", "token_req": true,
        });
        let reports = json!({
            "name": "reports", "subject": ingress::REPORTS, "type": "service", "token_req": true,
            "response_type": "Singleton",
        });
        let exports = json!([publish, direct, reports]);
        self.account(&self.ingress_key()?, "ingress", json!(all), exports, Limits::INGRESS, now)
    }

    /// The user of the ingresses. Its permissions name no topic: they are part of the line with which it connects, and
    /// the account has nothing but its imports.
    pub fn ingress_user(&self, now: OffsetDateTime) -> Result<User, AuthorityError> {
        let rights = Rights {
            publish: ingress::TOPIC_SUBJECTS.map(Into::into).into(),
            subscribe: vec!["_INBOX.>".into(), ingress::PUBLISHES.into(), ingress::TOPICS_SUBJECT.into()],
            answer: true,
        };
        self.user(&self.ingress_key()?, "ingress", "user/ingress", &rights, now)
    }

    /// The operator's own user there: it asks the ingresses what they serve, and hears what they and the handlers report,
    /// and what they write.
    pub fn ingress_operator_user(&self, now: OffsetDateTime) -> Result<User, AuthorityError> {
        let rights = Rights {
            publish: vec![ingress::TOPICS_SUBJECT.into()],
            subscribe: vec!["_INBOX.>".into(), ingress::REPORTS.into(), ingress::ALL_WRITES.into()],
            answer: false,
        };
        self.user(&self.ingress_key()?, "operator", "user/ingress/operator", &rights, now)
    }

    pub(crate) fn ingress_key(&self) -> Result<KeyPair, AuthorityError> {
        self.key(KeyPairType::Account, "account/ingress")
    }
}
