//! Which ingresses of a broker serve a topic, and how new their certificates are: they say so themselves.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{ServesReply, ServesRequest};
use tidegate_broker_client::layout::ingress;
use tidegate_wire::nats::Client;

use crate::gather::{Count, gather};

/// How long the ingresses may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection failed: try again.
    #[error("account of the ingresses: {0}")]
    Connection(String),
    /// An ingress of another version, or none: try again.
    #[error("an answer that cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// The account of the ingresses, as the operator uses it.
#[derive(Clone)]
pub struct Ingresses {
    client: Client,
    pods: usize,
}

impl Ingresses {
    /// `client`: [`crate::Authority::ingress_operator_user`]; `pods`: how many ingresses the broker has.
    pub fn new(client: Client, pods: usize) -> Self {
        Self { client, pods }
    }

    /// Asks all ingresses for a topic. Answers what those said that are there: fewer than there are pods while one of
    /// them starts, none at all while the broker is away.
    ///
    /// # Errors
    /// As [`AskError`] says.
    pub async fn ask(&self, topic: &TopicId) -> Result<Vec<ServesReply>, AskError> {
        self.send(&ServesRequest { topic: Some(topic.clone()) }).await
    }

    /// The generation of each ingress's certificates, by its pod.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn generations(&self) -> Result<HashMap<String, Option<u64>>, AskError> {
        let answers = self.send(&ServesRequest { topic: None }).await?;
        Ok(answers.into_iter().map(|answer| (answer.pod, answer.generation)).collect())
    }

    async fn send(&self, request: &ServesRequest) -> Result<Vec<ServesReply>, AskError> {
        let request = serde_json::to_vec(request)?;
        let count = Count { all: self.pods, enough: self.pods };
        let answers = gather(&self.client, ingress::TOPICS_SUBJECT, &request, count, TIMEOUT).await;
        let answers = answers.map_err(AskError::Connection)?;
        Ok(answers.iter().map(|answer| serde_json::from_str(answer)).collect::<Result<_, _>>()?)
    }

    /// How many ingresses serve this revision of a topic.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn serving(&self, topic: &TopicId, revision: &str) -> Result<usize, AskError> {
        let answers = self.ask(topic).await?;
        Ok(answers.iter().filter(|answer| answer.revision.as_deref() == Some(revision)).count())
    }
}
