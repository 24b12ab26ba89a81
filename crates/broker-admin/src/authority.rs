//! A broker's root of trust: one random root key, and the certificate authorities of servers, clients and routes.
//!
//! Every nkey (operator, accounts, users) is derived from the root key by HKDF-SHA256 (RFC 5869) with a
//! label, so there is one secret to keep, nothing to synchronise, and a handler that is made again under
//! another UID is another account.

use nkeys::{KeyPair, KeyPairType};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};
use tidegate_broker_client::TopicId;
use time::OffsetDateTime;

use crate::issuers::{Issuers, Leaf, LeafRequest, Usage};
use crate::rollover::Rollover;

/// Why there is no authority or leaf. Trying again helps in neither case.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The stored authority is not one.
    #[error("the stored authority is damaged: {0}")]
    Damaged(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key could not be made.
    #[error("key: {0}")]
    Key(#[from] nkeys::error::Error),
    /// A broker has no more topics than
    /// [`MAX_TOPICS`](tidegate_broker_client::contract::MAX_TOPICS).
    #[error("{0} topics are too many for one broker")]
    TooManyTopics(usize),
    /// The system has no randomness.
    #[error("no randomness")]
    Randomness,
}

/// A broker's root of trust. Its parts are what the operator keeps in a Secret.
#[derive(Clone)]
pub struct Authority {
    /// 32 random bytes.
    pub root: [u8; 32],
    /// Those that sign leaves now.
    pub issuers: Issuers,
    /// How far their replacement is.
    pub rollover: Rollover,
}

impl Authority {
    /// A new authority, valid from `now`, whose certificates carry `name`.
    ///
    /// # Errors
    /// No randomness, or a certificate could not be made.
    pub fn generate(name: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let mut root = [0; 32];
        SystemRandom::new().fill(&mut root).map_err(|_| AuthorityError::Randomness)?;
        Ok(Self { root, issuers: Issuers::generate(name, now)?, rollover: Rollover::default() })
    }

    /// A leaf of the authority for its use.
    ///
    /// # Errors
    /// A name is not one, or the authority is damaged.
    pub fn leaf(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        self.issuers.of(request.usage).leaf(request, now)
    }

    /// By what those who connect verify servers: one certificate or two, PEM.
    pub fn trusted_servers(&self) -> String {
        self.anchors().servers
    }

    /// By what the holder of a leaf for this use verifies the other side: one certificate or two, PEM.
    pub fn trusted_by(&self, usage: Usage) -> String {
        let anchors = self.anchors();
        match usage {
            Usage::Server => anchors.clients,
            Usage::Client | Usage::ServerAndClient => anchors.servers,
            Usage::Peer => anchors.routes,
        }
    }

    /// A topic's key for message ids ([`tidegate_broker_client::message_id::TopicKey`]).
    ///
    /// # Errors
    /// As [`Self::derive`].
    pub fn message_id_key(&self, topic: &TopicId) -> Result<[u8; 32], AuthorityError> {
        self.derive(&format!("message-ids/{topic}"))
    }

    /// The key of that kind and label; the same for the same label.
    pub(crate) fn key(&self, kind: KeyPairType, label: &str) -> Result<KeyPair, AuthorityError> {
        Ok(KeyPair::new_from_raw(kind, self.derive(label)?)?)
    }

    /// 32 bytes for a label that is not a key, for example a token that only one pod shall know.
    ///
    /// # Errors
    /// Never in practice: HKDF refuses only lengths beyond its hash.
    pub fn derive(&self, label: &str) -> Result<[u8; 32], AuthorityError> {
        let mut bytes = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate.io/v1")
            .extract(&self.root)
            .expand(&[label.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|material| material.fill(&mut bytes))
            .map_err(|_| AuthorityError::Damaged("key derivation".to_owned()))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_label_gives_the_same_key_and_another_label_another() {
        let authority = Authority::generate("test", OffsetDateTime::now_utc()).unwrap();
        let key = |label| authority.key(KeyPairType::Account, label).unwrap().public_key();
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a"), key("b"));
        assert!(key("a").starts_with('A'));
    }
}
