//! Who a device is, and for how long that is known.

use std::sync::Arc;

use http::StatusCode;
use tidegate_broker_client::{TopicId, contract};
use tokio::time::{Instant, sleep_until};

use super::Driver;
use crate::intake::refusal;
use crate::mqtt::clients::Device;
use crate::mqtt::session::{Credentials, Refusal};
use crate::problem::Problem;
use crate::share::Room;

impl Driver<'_> {
    /// Finds out who has connected, to which topic, and whether they may publish to it at all.
    pub(super) async fn authenticate(&mut self, Credentials { user, password }: Credentials) {
        let permitted = match self.name_topic(user.as_deref()) {
            Ok(audience) => self.identify(password, audience.as_deref()).await,
            Err(problem) => Err(problem),
        };
        let steps = match permitted {
            Ok(packet) => self.session.authenticated(Ok(packet)),
            Err(problem) => {
                self.refused(&problem);
                self.audit(Err(&problem));
                self.session.authenticated(Err((Refusal::from(&problem), &problem)))
            }
        };
        self.perform(steps);
    }

    /// Takes the topic that the user name names, where the host has named none. The audience of its tokens, whether there
    /// is such a topic or not; `None`: none is named.
    fn name_topic(&mut self, user: Option<&str>) -> Result<Option<String>, Problem> {
        let named = user.and_then(topic_named);
        match (&self.topic, named) {
            (Some(topic), Some(named)) if topic.id != named => Err(Problem::two_topics(&named)),
            (Some(topic), _) => Ok(Some(topic.audience.clone())),
            (None, Some(named)) => {
                self.topic = self.topics.current().by_path(&named.to_string()).cloned();
                if let Some(topic) = &self.topic {
                    self.room = Room::new(topic.share.with(&self.peer.share));
                }
                Ok(Some(contract::audience(&named)))
            }
            (None, None) => Ok(None),
        }
    }

    /// How many bytes a packet of whoever shows this may have.
    async fn identify(&mut self, password: Option<Vec<u8>>, audience: Option<&str>) -> Result<usize, Problem> {
        // What is no text is no token.
        let token = password.as_deref().map(|password| std::str::from_utf8(password).unwrap_or_default());
        let identity = self.topics.shared.auth.identify(token, &self.peer, audience).await?;
        self.proved_until = identity.remaining().map(|remaining| Instant::now() + remaining);
        // Also of a device that is refused: the audit says who it was.
        let identity = &**self.identity.insert(Arc::new(identity));
        let topic = self.topic.as_ref().ok_or_else(|| refusal(identity.publisher()))?;
        topic.permission(identity.publisher())?;
        Ok(topic.share.request_limit)
    }

    /// The device with this client identifier; `None`: it has none, so it is none that was there before.
    pub(super) fn device(&self, identifier: Option<String>) -> Option<Device> {
        let (topic, identity) = (self.topic.as_ref()?.id.clone(), self.identity.as_ref()?);
        Some(Device { topic, publisher: identity.publisher().as_str().to_owned(), identifier: identifier? })
    }

    pub(super) fn audit(&self, outcome: Result<usize, &Problem>) {
        if let Some(topic) = &self.topic {
            topic.audit.record(self.identity.as_ref().map(|identity| identity.publisher()), outcome);
        }
    }
}

/// The topic that a user name is the name of: `<namespace>/<topic>`. Every other one has no meaning.
fn topic_named(user: &str) -> Option<TopicId> {
    let (namespace, name) = user.split_once('/')?;
    TopicId::new(namespace, name).ok()
}

/// Waits until what proves the device's identity ends.
pub(super) async fn proof_ending(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

impl From<&Problem> for Refusal {
    fn from(problem: &Problem) -> Self {
        match problem.status {
            StatusCode::UNAUTHORIZED => Self::NotAuthenticated,
            StatusCode::FORBIDDEN => Self::NotAllowed,
            _ => Self::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_of_two_labels_names_a_topic() {
        for (user, topic) in [
            ("shop/orders", Some(("shop", "orders"))),
            ("ignored", None),
            ("", None),
            ("/", None),
            ("shop/", None),
            ("/orders", None),
            ("shop/orders/", None),
            ("Shop/orders", None),
            ("a plant/line 1", None),
            ("shop.x/orders", None),
        ] {
            let named = topic_named(user);
            assert_eq!(named.as_ref().map(|id| (id.namespace(), id.name())), topic, "{user}");
        }
    }
}
