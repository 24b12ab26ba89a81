//! Who a publisher is: the second thing that happens to a request, after [`crate::admission`] and before anything of its
//! body is read. What it may publish is its topic's to say ([`crate::intake`]).
//!
//! What proves a publisher, in this order; what is shown must be good, also where nothing would be needed:
//!
//! | proof | over | identity |
//! |---|---|---|
//! | a message id that the topic's key signs | HTTPS | the handler that was given the key |
//! | a ServiceAccount token for the topic | HTTPS, MQTT | the ServiceAccount |
//! | a client certificate of a known authority | HTTPS, MQTT | its URI |
//! | the subject, which only one account imports | NATS | the publisher of that name |
//! | none | HTTPS, MQTT | anonymous |

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_broker_client::contract;
use tidegate_publisher_auth::{Checked, LEEWAY_SECONDS, Publisher, TokenError, VerifiedToken, Verifier};
use tokio::sync::Semaphore;

use crate::problem::Problem;
use crate::share::Client;

mod attempts;
mod client_cas;
mod credentials;
mod peer;

use self::attempts::Attempts;
pub use self::client_cas::{ClientCas, ClientCasError};
pub use self::credentials::bearer;
pub use self::peer::{Peer, PeerCertificate};

/// Signatures that are verified at a time: fewer than the program has threads, so that what is known goes on.
const PROOFS: usize = 1;

/// By what publishers are recognised.
pub struct Auth {
    /// The authorities of client certificates.
    pub client_cas: Arc<ClientCas>,
    tokens: Verifier,
    attempts: Attempts,
    proofs: Semaphore,
}

/// A publisher, with what proves it.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Its token.
    Token(Arc<VerifiedToken>),
    /// Its certificate, and when that ends, in seconds since 1970.
    Certificate(Arc<Publisher>, u64),
    /// Known otherwise, or anonymous.
    Other(Publisher),
}

impl Auth {
    /// Nobody is known yet.
    pub fn new() -> Self {
        Self {
            client_cas: Arc::default(),
            tokens: Verifier::default(),
            attempts: Attempts::default(),
            proofs: Semaphore::new(PROOFS),
        }
    }

    /// From now on this proves publishers. Certificate authorities that are not readable change nothing.
    ///
    /// # Errors
    /// They are not readable.
    pub fn replace(&self, wanted: &contract::Topics) -> Result<(), ClientCasError> {
        self.tokens.replace(wanted.tokens.as_ref(), now());
        self.client_cas.replace(wanted.client_cas.as_deref())
    }

    /// Whoever shows this much: a token, or else a certificate, or nothing. `audience`: that of the topic; `None`: there
    /// is no topic that a token could be for.
    ///
    /// # Errors
    /// What was shown proves nothing, or too much of that was shown before.
    pub async fn identify(
        &self,
        token: Option<&str>,
        peer: &Peer,
        audience: Option<&str>,
    ) -> Result<Identity, Problem> {
        let Some(token) = token else {
            return Ok(match &peer.certificate {
                Some(certificate) => certificate.identity(now())?,
                None => Identity::Other(Publisher::anonymous()),
            });
        };
        let token = self.verify(token, &peer.client).await?;
        let is_for = audience.ok_or(TokenError::Audience).and_then(|audience| token.publisher_for(audience));
        is_for.map_err(bad_token)?;
        Ok(Identity::Token(token))
    }

    /// Verifies a token, and counts forged ones against the client, which has few of them: a signature costs more than
    /// all else that a request does.
    async fn verify(&self, token: &str, client: &Client) -> Result<Arc<VerifiedToken>, Problem> {
        match self.tokens.check(token, now()).map_err(bad_token)? {
            Checked::Known(token) => Ok(token),
            Checked::Unproven(token) => {
                let _turn = self.proofs.acquire().await.map_err(|_| Problem::overloaded())?;
                let attempt = self.attempts.begin(client).ok_or_else(Problem::too_many_attempts)?;
                let token = self.tokens.prove(token, now()).map_err(bad_token)?;
                attempt.succeeded();
                Ok(token)
            }
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// Who it is.
    pub fn publisher(&self) -> &Publisher {
        match self {
            Self::Token(token) => token.publisher(),
            Self::Certificate(publisher, _) => publisher,
            Self::Other(publisher) => publisher,
        }
    }

    /// How long its proof still counts; `None`: for ever.
    pub fn remaining(&self) -> Option<Duration> {
        let ends = match self {
            Self::Token(token) => token.expires() + LEEWAY_SECONDS,
            Self::Certificate(_, expires) => *expires,
            Self::Other(_) => return None,
        };
        Some(Duration::from_secs(ends.saturating_sub(now())))
    }
}

fn bad_token(error: TokenError) -> Problem {
    Problem::unauthenticated(Some(error.to_string()))
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
