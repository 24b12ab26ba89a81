//! Why the broker did not do what was asked, by what the caller can do.

use std::fmt;

use serde::Deserialize;

use super::json;

/// The code with which a server says that it can do nothing just now.
const UNAVAILABLE: u16 = 503;

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// What it is about is not there.
    #[error("{0} not found")]
    NotFound(Missing),
    /// The broker judged the request itself: the same one is refused again.
    #[error("{0}")]
    Refused(Refusal),
    /// Another try may succeed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The answer is none that a nats-server gives: it is not used.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// A server does not take its new configuration, and works on with the old one.
    #[error("the server does not take its configuration: {0}")]
    Configuration(String),
    /// The message is larger than the server takes, and was not sent.
    #[error("the message is larger than the server takes")]
    TooLarge,
    /// The request cannot be written, and was not sent.
    #[error("the request cannot be written: {0}")]
    Unwritable(String),
}

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A stream.
    Stream,
    /// A consumer.
    Consumer,
    /// A stored message.
    Message,
}

/// Why the broker does nothing just now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No server answers such requests at the moment.
    #[error("no responders")]
    NoResponders,
    /// There was no answer in time. It may have been done all the same.
    #[error("timed out")]
    TimedOut,
    /// There is no connection.
    #[error("there is no connection")]
    Disconnected,
    /// Too many requests wait for their answers.
    #[error("too many requests wait for their answers")]
    Busy,
    /// The server says that it is not able to.
    #[error("{0}")]
    Server(Refusal),
    /// Of so many streams or consumers of a list the servers know nothing at the moment.
    #[error("{0} have no leader at the moment")]
    Incomplete(usize),
}

/// The broker's own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// As HTTP's status codes.
    pub code: u16,
    /// What exactly.
    #[serde(rename = "err_code", default)]
    pub error_code: ErrorCode,
    /// In words; at most [`json::MAX_TEXT`] bytes without control characters.
    #[serde(default, deserialize_with = "json::text")]
    pub description: String,
}

/// Which error it is: a number of nats-server's `errors.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// No suitable servers.
    pub const CLUSTER_NO_PEERS: Self = Self(10005);
    /// A consumer cannot be made as it is configured.
    pub const CONSUMER_CREATE: Self = Self(10012);
    /// There is no such consumer.
    pub const CONSUMER_NOT_FOUND: Self = Self(10014);
    /// A server lacks resources.
    pub const INSUFFICIENT_RESOURCES: Self = Self(10023);
    /// There are as many consumers as there may be.
    pub const MAXIMUM_CONSUMERS_LIMIT: Self = Self(10026);
    /// There is no such stored message.
    pub const NO_MESSAGE_FOUND: Self = Self(10037);
    /// The files of a consumer cannot be made or read.
    pub const CONSUMER_STORE_FAILED: Self = Self(10104);
    /// There is no such server in the cluster.
    pub const SERVER_NOT_MEMBER: Self = Self(10044);
    /// A message is larger than its stream takes.
    pub const STREAM_MESSAGE_EXCEEDS_MAXIMUM: Self = Self(10054);
    /// There is no such stream.
    pub const STREAM_NOT_FOUND: Self = Self(10059);
    /// A message was not stored, for the reason in the description.
    pub const STREAM_STORE_FAILED: Self = Self(10077);
    /// A message's headers are larger than any stream takes.
    pub const STREAM_HEADER_EXCEEDS_MAXIMUM: Self = Self(10097);
}

impl ApiError {
    /// The broker's own words, if it answered at all.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Unavailable(Unavailable::Server(refusal)) => Some(refusal),
            _ => None,
        }
    }

    pub(super) fn unreadable(why: impl fmt::Display) -> Self {
        Self::Unreadable(json::bounded(&why.to_string()))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal.error_code {
            ErrorCode::STREAM_NOT_FOUND => Self::NotFound(Missing::Stream),
            ErrorCode::CONSUMER_NOT_FOUND => Self::NotFound(Missing::Consumer),
            ErrorCode::NO_MESSAGE_FOUND => Self::NotFound(Missing::Message),
            _ if refusal.code == UNAVAILABLE => Self::Unavailable(Unavailable::Server(refusal)),
            _ => Self::Refused(refusal),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, error_code: ErrorCode(error_code), description } = self;
        write!(f, "{description} (code {code}, error code {error_code})")
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Consumer => "consumer",
            Self::Message => "message",
        })
    }
}
