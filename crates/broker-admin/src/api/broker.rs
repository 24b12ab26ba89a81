//! The one way to a broker: a request and its answer.

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_wire::nats::{Client, HeaderBlock, Publish, PublishError, RequestError};

use super::error::{ApiError, Refusal, Unavailable};
use super::list;

/// Before each operation's name in its subject.
const PREFIX: &str = "$JS.API";

/// A connection to a topic's broker, in an account that has JetStream.
#[derive(Clone, Debug)]
pub struct Broker {
    client: Client,
    patience: Duration,
}

/// What every answer may have instead of what was asked for.
#[derive(Deserialize)]
struct Failure {
    error: Option<Refusal>,
}

/// The answer to what is done or not.
#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    success: bool,
}

impl Broker {
    /// Uses this connection. No request waits longer for its answer than `patience`.
    pub fn new(client: Client, patience: Duration) -> Self {
        Self { client, patience }
    }

    /// Sends a message and answers with what the broker says to it.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: Option<&HeaderBlock>,
        payload: &[u8],
    ) -> Result<Bytes, ApiError> {
        let message = Publish { subject, headers, payload, ..Publish::default() };
        Ok(self.client.request(&message, self.patience).await?.payload_bytes())
    }

    /// Asks for an operation; the answer may be a refusal.
    pub(super) async fn ask(&self, operation: &str, body: &impl Serialize) -> Result<Bytes, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Unwritable(error.to_string()))?;
        self.request(&format!("{PREFIX}.{operation}"), None, &body).await
    }

    /// Asks for an operation that answers with something.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        read(&self.ask(operation, body).await?)
    }

    /// Asks for an operation that is done or not.
    pub(super) async fn tell(&self, operation: &str, body: &impl Serialize) -> Result<(), ApiError> {
        let Done { success } = self.call(operation, body).await?;
        if success { Ok(()) } else { Err(ApiError::unreadable("it was neither done nor refused")) }
    }

    /// All entries of a list.
    pub(super) async fn list<T: DeserializeOwned>(&self, operation: &str) -> Result<Vec<T>, ApiError> {
        list::list(self, operation).await
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NoResponders => Unavailable::NoResponders.into(),
            RequestError::TimedOut => Unavailable::TimedOut.into(),
            RequestError::TooMany | RequestError::Publish(PublishError::Full) => Unavailable::Busy.into(),
            RequestError::Publish(PublishError::Disconnected) => Unavailable::Disconnected.into(),
            RequestError::Publish(PublishError::TooLarge { .. }) => Self::TooLarge,
            RequestError::Publish(PublishError::Subject(error)) => Self::Unwritable(error.to_string()),
        }
    }
}

/// Reads an answer.
pub(super) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ApiError> {
    let Failure { error } = serde_json::from_slice(answer).map_err(ApiError::unreadable)?;
    match error {
        Some(refusal) => Err(refusal.into()),
        None => serde_json::from_slice(answer).map_err(ApiError::unreadable),
    }
}
