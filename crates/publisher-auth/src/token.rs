//! A token: its form, and the two states in which it is of use.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tidegate_broker_client::contract::AUDIENCE_PREFIX;

use crate::claims::{AcceptedClaims, Claims, LEEWAY_SECONDS, MAX_LIFETIME_SECONDS, is_over};
use crate::key::Key;
use crate::publisher::Publisher;

/// The longest token in bytes that is looked at: those of ServiceAccounts have about 1,200.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Why a token proves nothing. The texts are for whoever shows it: they say nothing of the topic that it was shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The operator has not said by what tokens are verified.
    #[error("this broker has no keys of the cluster to verify tokens with: the condition of its EventBroker says why")]
    NoKeys,
    /// It is too long to be looked at.
    #[error("the token has more than {MAX_TOKEN} bytes, which no token of a ServiceAccount has")]
    TooLong,
    /// It is not a JSON Web Token.
    #[error("the token is not a signed JSON Web Token with the claims of a ServiceAccount")]
    Malformed,
    /// It chose an algorithm that its key is not for.
    #[error("the token is not signed by the algorithm of its key")]
    Algorithm,
    /// It is signed by another cluster, or by a key that is no longer used.
    #[error("the token is signed by a key that this cluster does not have: ask this cluster for a new one")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the token's signature is not valid")]
    Signature,
    /// It is of another issuer.
    #[error("the token's issuer is not this cluster")]
    Issuer,
    /// It is for somebody else.
    #[error("the token is for another audience: ask for one for {AUDIENCE_PREFIX}<namespace>/<topic>")]
    Audience,
    /// It has ended.
    #[error("the token has expired: read the file of a projected volume again, or ask for a new one")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet, by more than {LEEWAY_SECONDS} s: compare the clocks")]
    NotYetValid,
    /// It is valid for too long.
    #[error(
        "the token is valid for more than {} minutes: ask for one of an hour (expirationSeconds: 3600, or kubectl create \
         token --duration=1h)", MAX_LIFETIME_SECONDS / 60
    )]
    TooLongLived,
    /// It is not of a ServiceAccount.
    #[error("the token is not of a ServiceAccount")]
    Subject,
}

/// A token whose claims are acceptable, if it is not forged.
#[derive(Debug)]
pub struct Unproven<'a> {
    pub(crate) digest: Digest,
    /// By which state of the keys it was read.
    pub(crate) generation: u64,
    key: Key,
    message: &'a str,
    signature: Vec<u8>,
    claims: AcceptedClaims,
}

/// A token that is what it says.
#[derive(Debug)]
pub struct VerifiedToken {
    publisher: Publisher,
    audiences: Vec<String>,
    expires: u64,
}

/// SHA-256 of a token.
pub type Digest = [u8; 32];

/// The header (RFC 7515, section 4).
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// What must be understood to be accepted: nothing of it is.
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl<'a> Unproven<'a> {
    /// Reads a token, and checks all but its signature and its audience.
    pub(crate) fn read(
        token: &'a str,
        digest: Digest,
        issuer: &str,
        generation: u64,
        key: impl FnOnce(&str) -> Option<Key>,
        now: u64,
    ) -> Result<Self, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = json(header)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = header.kid.and_then(|id| key(&id)).ok_or(TokenError::UnknownKey)?;
        if header.alg != key.algorithm {
            return Err(TokenError::Algorithm);
        }
        let claims = json::<Claims>(payload)?.accept(issuer, now)?;
        let signature = decode(signature)?;
        Ok(Self { digest, generation, key, message, signature, claims })
    }

    /// Verifies the signature.
    pub(crate) fn verify(self) -> Result<VerifiedToken, TokenError> {
        if !self.key.has_signed(self.message.as_bytes(), &self.signature) {
            return Err(TokenError::Signature);
        }
        let AcceptedClaims { publisher, audiences, expires } = self.claims;
        Ok(VerifiedToken { publisher, audiences, expires })
    }
}

impl VerifiedToken {
    /// Whose it is.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Whose it is, if it is for this audience.
    ///
    /// # Errors
    /// It is for others.
    pub fn publisher_for(&self, audience: &str) -> Result<&Publisher, TokenError> {
        let is_for = self.audiences.iter().any(|own| own == audience);
        if is_for { Ok(&self.publisher) } else { Err(TokenError::Audience) }
    }

    /// When it ends, in seconds since 1970. It is accepted for [`LEEWAY_SECONDS`] more.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: u64) -> bool {
        is_over(self.expires, now)
    }
}

fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, TokenError> {
    serde_json::from_slice(&decode(text)?).map_err(|_| TokenError::Malformed)
}
