//! Who a device is, and for how long that is known.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::{Instant, sleep_until};

use super::Driver;
use crate::intake::refusal;
use crate::mqtt::clients::Device;
use crate::mqtt::session::Refusal;
use crate::problem::Problem;

impl Driver<'_> {
    /// Finds out who has connected, and whether they may publish to the topic at all.
    pub(super) async fn authenticate(&mut self, password: Option<Vec<u8>>) {
        let audience = self.topic.as_ref().map(|topic| topic.audience.as_str());
        // What is no text is no token.
        let token = password.as_deref().map(|password| std::str::from_utf8(password).unwrap_or_default());
        let identified = self.topics.shared.auth.identify(token, &self.peer, audience).await;
        let permitted = identified.and_then(|identity| {
            self.proved_until = identity.remaining().map(|remaining| Instant::now() + remaining);
            // Also of a device that is refused: the audit says who it was.
            let identity = &**self.identity.insert(Arc::new(identity));
            let topic = self.topic.as_ref().ok_or_else(|| refusal(identity.publisher()))?;
            topic.permission(identity.publisher()).map(drop)
        });
        let steps = match permitted {
            Ok(()) => self.session.authenticated(Ok(())),
            Err(problem) => {
                self.refused(&problem);
                self.audit(Err(&problem));
                self.session.authenticated(Err((Refusal::from(&problem), &problem)))
            }
        };
        self.perform(steps);
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
