//! What the ingresses are told of the topics that they serve.

use tidegate_broker_client::contract::{TOPICS_FILE, Topics};
use tidegate_broker_client::message_id;

use super::certificates::secret;
use super::{Child, Input};
use crate::identity::authority::Data;
use crate::kubernetes::names;
use crate::reconcile::error::Error;

/// The file that the ingress reads. It holds the topics' keys for message ids, so it is a Secret.
pub fn file(input: &Input<'_>) -> Result<Child, Error> {
    let mut topics = Vec::with_capacity(input.topics.len());
    for topic in input.topics {
        let key = message_id::key_text(&input.authority.message_id_key(&topic.id)?);
        topics.push(topic.served(key));
    }
    let (tokens, client_cas) = (input.trust.tokens.clone(), input.trust.client_cas.clone());
    let file = Topics { topics, tokens, client_cas, several_servers: input.scale.pods > 1 };
    let text = serde_json::to_string(&file).map_err(kube::Error::SerdeError)?;
    Ok(secret(input, &names::topics(&input.owner.name), Data::from([(TOPICS_FILE.into(), text)])))
}
