//! Verifies tokens by the keys of the moment, and remembers those that it has verified.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ring::digest::{SHA256, digest};
use tidegate_broker_client::contract::{MAX_KEYS, TokenTrust};

use crate::claims::{LEEWAY_SECONDS, MAX_LIFETIME_SECONDS};
use crate::key::Key;
use crate::token::{Digest, MAX_TOKEN, TokenError, Unproven, VerifiedToken};

/// Maximum number of tokens that are remembered: a kilobyte of memory holds about three.
const MAX_REMEMBERED: usize = 4096;

/// Verifies tokens.
#[derive(Default)]
pub struct Verifier {
    trust: RwLock<Trust>,
    verified: Mutex<HashMap<Digest, Arc<VerifiedToken>>>,
}

/// By what they are verified.
#[derive(Default)]
struct Trust {
    /// `None`: by nothing.
    issuer: Option<String>,
    keys: Vec<KeptKey>,
    /// Counts its changes: what was verified by another one is not remembered.
    generation: u64,
}

/// A key, and until when it is good if the cluster no longer has it.
#[derive(Clone)]
struct KeptKey {
    key: Key,
    until: Option<u64>,
}

/// A token that was looked at.
pub enum Checked<'a> {
    /// It was verified before.
    Known(Arc<VerifiedToken>),
    /// It must be [proved](Verifier::prove).
    Unproven(Box<Unproven<'a>>),
}

impl Verifier {
    /// From now on these keys count; `None`: none does. The same again changes nothing, and forgets no token. A key that is gone counts until the last token that it can have
    /// signed ends: whoever rotates keys does not take back tokens. With another issuer they go at once.
    ///
    /// `now` is in seconds since 1970, here as everywhere.
    pub fn replace(&self, wanted: Option<&TokenTrust>, now: u64) {
        let mut trust = self.trust.write().unwrap_or_else(PoisonError::into_inner);
        let issuer = wanted.map(|wanted| wanted.issuer.clone()).filter(|issuer| !issuer.is_empty());
        let mut keys: Vec<KeptKey> = Vec::new();
        for key in wanted.iter().flat_map(|wanted| &wanted.keys.keys).filter_map(Key::from_jwk) {
            // Of two keys with one name it is not known which one signed.
            if keys.len() < MAX_KEYS && keys.iter().all(|kept| kept.key.id != key.id) {
                keys.push(KeptKey { key, until: None });
            }
        }
        if trust.issuer == issuer {
            let counting = trust.keys.iter().filter(|kept| kept.until.is_none()).map(|kept| &kept.key);
            if counting.eq(keys.iter().map(|kept| &kept.key)) {
                return;
            }
            let until = now + MAX_LIFETIME_SECONDS + LEEWAY_SECONDS;
            let old = trust.keys.iter().map(|kept| KeptKey { until: kept.until.or(Some(until)), ..kept.clone() });
            let is_gone = |old: &KeptKey| keys.iter().all(|kept| kept.key.id != old.key.id);
            let gone: Vec<_> = old.filter(is_gone).filter(|old| old.is_good(now)).take(MAX_KEYS).collect();
            keys.extend(gone);
        }
        let generation = trust.generation + 1;
        *trust = Trust { issuer, keys, generation };
        self.lock().clear();
    }

    /// Looks at a token without verifying a signature: some microseconds.
    ///
    /// # Errors
    /// It proves nothing.
    pub fn check<'a>(&self, token: &'a str, now: u64) -> Result<Checked<'a>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let digest = digest_of(token);
        let known = self.lock().get(&digest).cloned();
        match known {
            Some(token) if token.is_over(now) => return Err(TokenError::Expired),
            Some(token) => return Ok(Checked::Known(token)),
            None => {}
        }
        let trust = self.trust.read().unwrap_or_else(PoisonError::into_inner);
        let issuer = trust.issuer.as_deref().ok_or(TokenError::NoKeys)?;
        let key = |id: &str| trust.keys.iter().find(|kept| kept.key.id == id && kept.is_good(now));
        let key = |id: &str| key(id).map(|kept| kept.key.clone());
        Unproven::read(token, digest, issuer, trust.generation, key, now).map(Box::new).map(Checked::Unproven)
    }

    /// Verifies the signature of a token, and remembers the token if it is good. Takes 30 µs to more than a millisecond.
    ///
    /// # Errors
    /// It is forged.
    pub fn prove(&self, token: Box<Unproven<'_>>, now: u64) -> Result<Arc<VerifiedToken>, TokenError> {
        let (digest, generation) = (token.digest, token.generation);
        let verified = Arc::new(token.verify()?);
        let trust = self.trust.read().unwrap_or_else(PoisonError::into_inner);
        if trust.generation == generation {
            let mut remembered = self.lock();
            if remembered.len() >= MAX_REMEMBERED {
                forget_some(&mut remembered, now);
            }
            remembered.insert(digest, Arc::clone(&verified));
        }
        Ok(verified)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<VerifiedToken>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptKey {
    fn is_good(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Makes room: what has ended goes, and half of the rest if that is not enough.
fn forget_some(remembered: &mut HashMap<Digest, Arc<VerifiedToken>>, now: u64) {
    remembered.retain(|_, token| !token.is_over(now));
    if remembered.len() >= MAX_REMEMBERED {
        let mut is_kept = false;
        remembered.retain(|_, _| {
            is_kept = !is_kept;
            is_kept
        });
    }
}

fn digest_of(token: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
mod tests;
