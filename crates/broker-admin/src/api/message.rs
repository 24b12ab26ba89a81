//! Stored messages, and messages to be stored.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_wire::nats::{HeaderBlock, HeaderError, Headers};
use time::OffsetDateTime;

use super::broker::{Broker, read};
use super::error::{ApiError, Missing};
use super::json;

/// The headers of a message that has none.
const NO_HEADERS: &[u8] = b"NATS/1.0\r\n\r\n";

/// A message of a stream (`StoredMsg`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StoredMessage {
    /// The subject that it was published to.
    pub subject: String,
    /// Its sequence.
    #[serde(rename = "seq", deserialize_with = "json::count")]
    pub sequence: u64,
    /// When it was stored.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Its payload.
    #[serde(rename = "data", default, deserialize_with = "json::base64")]
    pub payload: Bytes,
    /// Its headers, as its publisher wrote them.
    #[serde(rename = "hdrs", default, deserialize_with = "json::base64")]
    header_block: Bytes,
}

/// What the broker says of a message that it has stored (`PubAck`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PublishAck {
    /// The message's sequence.
    #[serde(rename = "seq", deserialize_with = "json::count")]
    pub sequence: u64,
    /// Whether a message of this id was there before: this one was not stored again.
    #[serde(default)]
    pub duplicate: bool,
}

#[derive(Deserialize)]
struct Found {
    message: StoredMessage,
}

impl StoredMessage {
    /// Its headers, or an empty block.
    ///
    /// # Errors
    /// They are malformed, which is their publisher's doing.
    pub fn headers(&self) -> Result<Headers<'_>, HeaderError> {
        Headers::parse(if self.header_block.is_empty() { NO_HEADERS } else { &self.header_block })
    }
}

impl Broker {
    /// The message of this sequence.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn message(&self, stream: &str, sequence: u64) -> Result<StoredMessage, ApiError> {
        let message = self.get(stream, json!({"seq": sequence})).await?;
        if message.sequence == sequence { Ok(message) } else { Err(ApiError::unreadable("it is another message")) }
    }

    /// The first message from a sequence on that a subject (with wildcards) matches; `None`: there is none.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn next_message(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        match self.get(stream, json!({"seq": from, "next_by_subj": subject})).await {
            Ok(message) if message.sequence >= from => Ok(Some(message)),
            Ok(_) => Err(ApiError::unreadable("it is a message before the first one asked for")),
            Err(ApiError::NotFound(Missing::Message)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, stream: &str, what: Value) -> Result<StoredMessage, ApiError> {
        let Found { message } = self.call(&format!("STREAM.MSG.GET.{stream}"), &what).await?;
        Ok(message)
    }

    /// Removes a message.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), ApiError> {
        self.tell(&format!("STREAM.MSG.DELETE.{stream}"), &json!({"seq": sequence})).await
    }

    /// Publishes a message, and waits until a stream has stored it.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn publish(
        &self,
        subject: &str,
        headers: Option<&HeaderBlock>,
        payload: &[u8],
    ) -> Result<PublishAck, ApiError> {
        read(&self.request(subject, headers, payload).await?)
    }
}
