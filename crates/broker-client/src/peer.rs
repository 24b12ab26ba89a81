//! The broker as other programs reach it, with NATS's own client library: for tests and benchmarks, which are to judge
//! our protocol by somebody else's. No program of ours links it.

use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::{Auth, AuthError, Client, ConnectOptions};
use bytes::Bytes;
use tidegate_cloudevents::Event;

use crate::connect::{signature, tls};
use crate::identity::{Identity, Source, Unreadable};
use crate::stored::{self, StoredHeaders};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] Unreadable),
    /// The broker did not let the client in, or is not there.
    #[error("broker: {0}")]
    Broker(#[from] async_nats::ConnectError),
}

/// How long a connection and its handshake may take: what is slow on a busy machine is not wrong.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Connects to one of these servers (`tls://host:port`), and to no others.
///
/// # Errors
/// The identity is unusable, or no server accepted it.
pub async fn connect(name: &str, servers: &[String], identity: Source) -> Result<Client, ConnectError> {
    let tls = tls(identity.clone())?;
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let identity = identity.clone();
        async move { sign(&identity().map_err(AuthError::new)?, &nonce).map_err(AuthError::new) }
    });
    let options = options.name(name).tls_client_config(tls).require_tls(true).ignore_discovered_servers();
    let options = options.connection_timeout(CONNECT_LIMIT);
    Ok(options.connect(servers).await?)
}

fn sign(identity: &Identity, nonce: &[u8]) -> Result<Auth, Unreadable> {
    let mut auth = Auth::new();
    auth.jwt = Some(identity.user_jwt.clone());
    auth.signature = Some(signature(identity, nonce)?);
    Ok(auth)
}

/// The headers and the payload of an event, by the rules of [`stored::encode`].
pub fn encode(event: &Event) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let payload = stored::write(event, |name, value| headers.insert(name, value));
    (headers, payload)
}

impl<'a> StoredHeaders<'a> for Option<&'a HeaderMap> {
    fn problem(&self) -> Option<String> {
        None
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let each = |(name, values): (&'a HeaderName, &'a Vec<HeaderValue>)| {
            values.iter().map(move |value| (name.as_ref(), value.as_str()))
        };
        (*self).into_iter().flat_map(HeaderMap::iter).flat_map(each)
    }
}
