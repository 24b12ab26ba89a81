//! Answers the operator, which asks each ingress whether it serves a topic, and how new its certificates are.

use std::sync::Arc;

use tidegate_broker_client::contract::{ServesReply, ServesRequest};
use tidegate_broker_client::layout::ingress::TOPICS_SUBJECT;
use tidegate_wire::nats::{Client, Message, Publish, SubscribeError, Subscriber};

use super::Topics;
use crate::tls::Certificates;

/// What answers it.
pub struct ServingAnswers {
    client: Client,
    questions: Subscriber,
    topics: Arc<Topics>,
    certificates: Arc<Certificates>,
}

impl ServingAnswers {
    /// Begins to listen.
    ///
    /// # Errors
    /// None for this subject.
    pub fn new(topics: Arc<Topics>, certificates: Arc<Certificates>) -> Result<Self, SubscribeError> {
        let client = topics.shared.client.clone();
        let questions = client.subscribe(TOPICS_SUBJECT, None)?;
        Ok(Self { client, questions, topics, certificates })
    }

    /// Answers. Returns when the connection is closed for good.
    pub async fn run(mut self) {
        while let Some(question) = self.questions.next().await {
            let Some(reply) = question.reply() else { continue };
            let Some(answer) = self.answer(&question) else {
                tracing::debug!("a question about topics is not readable");
                continue;
            };
            let message = Publish { subject: reply, payload: &answer, ..Publish::default() };
            if let Err(error) = self.client.try_publish(&message) {
                tracing::debug!(%error, "cannot answer a question about topics");
            }
        }
    }

    fn answer(&self, question: &Message) -> Option<Vec<u8>> {
        let ServesRequest { topic } = serde_json::from_slice(question.payload()).ok()?;
        let path = topic.map(|topic| topic.to_string());
        let revision = path.and_then(|path| Some(self.topics.current().by_path(&path)?.revision.clone()));
        let (pod, generation) = (self.topics.shared.pod.to_string(), self.certificates.generation());
        serde_json::to_vec(&ServesReply { pod, revision, generation }).ok()
    }
}
