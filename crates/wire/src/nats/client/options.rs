//! What a connection needs to know, and what it tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::connect::ConnectError;
use crate::nats::decode::ProtocolError;

/// Why an identity cannot be used.
pub type IdentityError = Box<dyn std::error::Error + Send + Sync>;

/// Who the client is, and whom it trusts. Asked at each connect, so that what was rotated is used without a restart.
pub trait Identity: Send + Sync {
    /// The client's certificate and the authorities of the server's.
    ///
    /// # Errors
    /// There is none that can be used now.
    fn tls(&self) -> Result<Arc<ClientConfig>, IdentityError>;

    /// The user, who signs what the server asks to be signed.
    ///
    /// # Errors
    /// There is none that can be used now.
    fn credentials(&self, nonce: &[u8]) -> Result<Credentials, IdentityError>;
}

/// A user of an account.
#[derive(Clone)]
pub struct Credentials {
    /// The user's JWT.
    pub user_jwt: String,
    /// The signature of the server's nonce by the user's key.
    pub signature: Vec<u8>,
}

/// In which order the servers are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerOrder {
    /// At random, so that clients spread over the servers.
    #[default]
    Random,
    /// As they are given: the first is preferred.
    Given,
}

/// What becomes of a message that is published while there is no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offline {
    /// It waits for the next connection, as long as there is room.
    #[default]
    Keep,
    /// It is refused ([`super::PublishError::Disconnected`]): its author learns at once that it was not sent.
    Refuse,
}

/// What may wait in a subscription. What is beyond is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of them. One message that is alone may have more.
    pub bytes: usize,
}

/// How a [`super::Client`] connects and what it takes.
#[derive(Clone)]
pub struct Options {
    /// The connection's name in the server's monitoring.
    pub name: String,
    /// `tls://host:port`, each. No others are used, whatever a server advertises: those are not in its certificate.
    pub servers: Vec<String>,
    /// In which order they are tried.
    pub order: ServerOrder,
    /// What becomes of a message that is published while there is none.
    pub offline: Offline,
    /// Who the client is.
    pub identity: Arc<dyn Identity>,
    /// Limits of a subscription.
    pub queue: QueueLimits,
    /// The largest message that is taken, headers included, in bytes.
    pub max_message: usize,
    /// Bytes that may wait to be sent before publishers wait.
    pub write_buffer: usize,
    /// The limit of one attempt to connect, from the name's resolution to the server's first PONG.
    pub connect_timeout: Duration,
    /// How often a server is asked whether it is there. One that does not answer the third time is left.
    pub ping_interval: Duration,
    /// Hears what happens to the connection. It must not block.
    pub on_event: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl Options {
    /// The defaults: messages and queues as large as an event of 8 MiB needs them, a silent server left after 12 s.
    pub fn new(name: impl Into<String>, servers: &[String], identity: Arc<dyn Identity>) -> Self {
        Self {
            name: name.into(),
            servers: servers.to_vec(),
            order: ServerOrder::default(),
            offline: Offline::default(),
            identity,
            queue: QueueLimits { messages: 4096, bytes: 32 << 20 },
            max_message: 16 << 20,
            write_buffer: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(3),
            on_event: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("name", &self.name).field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub connected: bool,
    /// Its number: every new one has another.
    pub epoch: u64,
}

/// Something that happened to the connection.
#[derive(Debug)]
pub enum Event {
    /// There is one.
    Connected,
    /// It is lost; another one is being made.
    Disconnected(Loss),
    /// An attempt to make one failed; there will be another.
    ConnectFailed(ConnectError),
    /// What the server complains of, as a violation of permissions. The connection may last.
    ServerError(String),
    /// The server is about to end.
    LameDuck,
    /// Messages of a subscription to this subject are dropped, because no one takes them.
    SlowSubscriber(String),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Loss {
    /// The last client was dropped.
    #[error("the client ended it")]
    Closed,
    /// The caller asked for a new one.
    #[error("a new one was asked for")]
    Requested,
    /// The caller asked for a new one, and this one was left in order.
    #[error("it is replaced by a new one")]
    Renewed,
    /// The server closed it.
    #[error("the server closed it")]
    ServerClosed,
    /// The server does not answer.
    #[error("the server is silent")]
    Silent,
    /// The server sent what it must not.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Disconnected(loss) => write!(f, "the connection is lost: {loss}"),
            Self::ConnectFailed(error) => write!(f, "no connection: {error}"),
            Self::ServerError(text) => write!(f, "the server reports: {text}"),
            Self::LameDuck => f.write_str("the server is about to end"),
            Self::SlowSubscriber(subject) => {
                write!(f, "messages to {subject:?} are dropped: the subscriber does not take them in time")
            }
        }
    }
}

/// What a client has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Messages that came.
    pub received: u64,
    /// Messages that could not be read ([`crate::nats::Message::malformed`]).
    pub malformed: u64,
    /// Messages that were dropped, because no one took them from their subscription.
    pub dropped: u64,
}
