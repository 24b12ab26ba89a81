//! The cluster's issuer and keys, by which the ingresses verify tokens of ServiceAccounts.
//!
//! They are read from the API server itself, never from the address that its `jwks_uri` names, which may be outside of the
//! cluster. What was read stays in force while the API server is away. A key that the API server no longer has is kept
//! until the last token that it signed has ended: of several API servers one has a new key before the others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::{Client, ResourceExt as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidegate_broker_client::contract::{Jwk, Jwks, MAX_KEY_VALUE, MAX_KEYS, TokenTrust};

use crate::broker::publishers::MAX_KEYS_TEXT;
use crate::context::Context;
use crate::sessions::brokers::BrokerKey;

/// Between two looks at the keys. A new one is known to the ingresses a moment later.
pub const REFRESH_PERIOD: Duration = Duration::from_secs(30);
/// The API server answers within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time for which an ingress takes a token after it was issued.
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(70 * 60);
/// The algorithms that an ingress takes.
const ALGORITHMS: [&str; 4] = ["RS256", "ES256", "ES384", "EdDSA"];

const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/openid/v1/jwks";

/// Why there are no keys, or not all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeysError {
    /// The API server did not answer, or not with what was asked for: it is asked again.
    #[error("GET {path}: {why}")]
    NotRead {
        /// What was asked for.
        path: &'static str,
        /// Its answer, or why there is none.
        why: String,
    },
    /// No token that is signed with these can be verified.
    #[error("of the cluster's keys none is of use: {0}")]
    NoneUsable(String),
}

/// What is known of the cluster's keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Issuer and keys; `None`: they were never read.
    pub trust: Option<TokenTrust>,
    /// Why the last look was in vain.
    pub failure: Option<TokenKeysError>,
    /// The keys that are of no use, and why, in words.
    pub unusable: Vec<String>,
}

/// The keys, as they were read last.
pub struct TokenKeys {
    period: Duration,
    state: Mutex<State>,
}

impl Default for TokenKeys {
    fn default() -> Self {
        Self::new(REFRESH_PERIOD)
    }
}

#[derive(Default)]
struct State {
    issuer: String,
    keys: BTreeMap<String, (Jwk, Instant)>,
    known: Known,
}

impl TokenKeys {
    /// None yet. They are read again after this time.
    pub fn new(period: Duration) -> Self {
        Self { period, state: Mutex::default() }
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        self.lock().known.clone()
    }

    /// Reads them. Whether anything of what is known changed.
    pub async fn refresh(&self, client: &Client) -> bool {
        let read = read(client).await;
        self.lock().take(read, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps them as the API server has them, and has the files of all brokers written when they change.
pub async fn run(context: Context) {
    let mut ticks = tokio::time::interval(context.token_keys.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !context.token_keys.refresh(&context.client).await {
            continue;
        }
        let known = context.token_keys.known();
        match &known.failure {
            Some(error) => tracing::warn!(%error, "keys of ServiceAccount tokens are not read"),
            None => tracing::info!(unusable = ?known.unusable, "keys of ServiceAccount tokens changed"),
        }
        for broker in context.stores.brokers.state() {
            let namespace = broker.namespace().unwrap_or_default();
            context.broker_changes.add(BrokerKey { namespace, name: broker.name_any() });
        }
    }
}

/// What is of interest of `/.well-known/openid-configuration`.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

async fn read(client: &Client) -> Result<TokenTrust, TokenKeysError> {
    let discovery: Discovery = get(client, DISCOVERY_PATH).await?;
    let keys: Jwks = get(client, KEYS_PATH).await?;
    if discovery.issuer.is_empty() || discovery.issuer.len() > MAX_KEY_VALUE {
        return Err(TokenKeysError::NotRead { path: DISCOVERY_PATH, why: "the issuer has no use".to_owned() });
    }
    Ok(TokenTrust { issuer: discovery.issuer, keys })
}

async fn get<T: DeserializeOwned>(client: &Client, path: &'static str) -> Result<T, TokenKeysError> {
    let failed = |why: String| TokenKeysError::NotRead { path, why };
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| failed(error.to_string()))?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.request_text(request)).await;
    let text = answer.map_err(|_| failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))?;
    let text = text.map_err(|error| failed(crate::reconcile::error::short(&error)))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

impl State {
    fn take(&mut self, read: Result<TokenTrust, TokenKeysError>, now: Instant) -> bool {
        let before = self.known.clone();
        match read {
            Ok(TokenTrust { issuer, keys }) => self.replace(issuer, keys.keys, now),
            Err(error) => self.known.failure = Some(error),
        }
        before != self.known
    }

    fn replace(&mut self, issuer: String, keys: Vec<Jwk>, now: Instant) {
        let mut unusable = Vec::new();
        let mut is_any_usable = false;
        for key in keys {
            if let Some(why) = why_unusable(&key) {
                unusable.push(format!("{} ({why})", name(&key)));
                continue;
            }
            is_any_usable = true;
            self.keys.insert(identity(&key), (key, now));
        }
        if !is_any_usable {
            let all = if unusable.is_empty() { "there are none".to_owned() } else { unusable.join(", ") };
            self.known.failure = Some(TokenKeysError::NoneUsable(all));
            return;
        }
        self.issuer = issuer;
        self.keys.retain(|_, (_, seen)| now.duration_since(*seen) <= MAX_TOKEN_LIFETIME);
        let trust = TokenTrust { issuer: self.issuer.clone(), keys: Jwks { keys: self.newest() } };
        self.known = Known { trust: Some(trust), failure: None, unusable };
    }

    /// As many as an ingress takes, those that the API server has before those that it had. In a fixed order.
    fn newest(&self) -> Vec<Jwk> {
        let mut newest: Vec<_> = self.keys.iter().collect();
        newest.sort_by_key(|(identity, (_, seen))| (std::cmp::Reverse(*seen), *identity));
        let mut left = MAX_KEYS_TEXT - 2 * MAX_KEY_VALUE;
        newest.retain(|(identity, _)| {
            let fits = identity.len() < left;
            left = left.saturating_sub(identity.len() + 1);
            fits
        });
        newest.truncate(MAX_KEYS);
        newest.sort_by_key(|(identity, _)| *identity);
        newest.into_iter().map(|(_, (key, _))| key.clone()).collect()
    }
}

/// The same for the same key, and only for that.
fn identity(key: &Jwk) -> String {
    serde_json::to_string(key).unwrap_or_default()
}

fn name(key: &Jwk) -> String {
    key.kid.clone().unwrap_or_else(|| "a key without a kid".to_owned())
}

/// Why an ingress cannot verify with a key.
fn why_unusable(key: &Jwk) -> Option<String> {
    if key.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Some("it is not for signatures".to_owned());
    }
    let Jwk { kty, kid, alg, usage, crv, n, e, x, y } = key;
    if [kid, alg, usage, crv, n, e, x, y].into_iter().flatten().chain([kty]).any(|text| text.len() > MAX_KEY_VALUE) {
        return Some(format!("it has a value of more than {MAX_KEY_VALUE} bytes"));
    }
    match alg.as_deref() {
        Some(alg) if ALGORITHMS.contains(&alg) => None,
        Some(alg) => Some(format!("its algorithm is {alg}, not one of {}", ALGORITHMS.join(", "))),
        None => Some("it names no algorithm".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str, alg: &str) -> Jwk {
        Jwk { kty: "RSA".into(), kid: Some(kid.into()), alg: Some(alg.into()), n: Some("n".into()), ..Jwk::default() }
    }

    fn read(keys: Vec<Jwk>) -> Result<TokenTrust, TokenKeysError> {
        Ok(TokenTrust { issuer: "https://issuer".into(), keys: Jwks { keys } })
    }

    fn kids(state: &State) -> Vec<String> {
        let trust = state.known.trust.clone().unwrap();
        trust.keys.keys.into_iter().filter_map(|key| key.kid).collect()
    }

    #[test]
    fn a_key_is_kept_until_its_last_token_has_ended() {
        let (mut state, began) = (State::default(), Instant::now());
        assert!(state.take(read(vec![key("a", "RS256")]), began));
        assert!(!state.take(read(vec![key("a", "RS256")]), began + REFRESH_PERIOD), "nothing changed");
        let rotated = began + 2 * REFRESH_PERIOD;
        assert!(state.take(read(vec![key("b", "ES256")]), rotated));
        assert_eq!(kids(&state), ["a", "b"]);
        // Another API server that does not have the new one yet.
        assert!(!state.take(read(vec![key("a", "RS256")]), rotated + REFRESH_PERIOD));
        let ended = rotated + REFRESH_PERIOD + MAX_TOKEN_LIFETIME + Duration::from_secs(1);
        state.take(read(vec![key("b", "ES256")]), ended);
        assert_eq!(kids(&state), ["b"]);
    }

    #[test]
    fn what_was_read_stays_while_the_api_server_is_away() {
        let mut state = State::default();
        state.take(read(vec![key("a", "RS256")]), Instant::now());
        let away = TokenKeysError::NotRead { path: KEYS_PATH, why: "connection refused".into() };
        assert!(state.take(Err(away.clone()), Instant::now()));
        assert_eq!((kids(&state), state.known.failure.clone()), (vec!["a".to_owned()], Some(away)));
        assert!(state.take(read(Vec::new()), Instant::now()));
        assert_eq!(kids(&state), ["a"]);
        assert_eq!(state.known.failure, Some(TokenKeysError::NoneUsable("there are none".into())));
    }

    #[test]
    fn keys_of_no_use_are_named_and_left_out() {
        let mut state = State::default();
        let encrypts = Jwk { usage: Some("enc".into()), ..key("e", "RS256") };
        let long = Jwk { n: Some("n".repeat(MAX_KEY_VALUE + 1)), ..key("l", "RS256") };
        let all = vec![key("h", "HS256"), key("a", "EdDSA"), encrypts, long, Jwk { alg: None, ..key("n", "") }];
        state.take(read(all), Instant::now());
        assert_eq!(kids(&state), ["a"]);
        let unusable = state.known.unusable.join("; ");
        for said in ["h (its algorithm is HS256", "e (it is not for", "l (it has a value", "n (it names no"] {
            assert!(unusable.contains(said), "{unusable}");
        }
    }

    #[test]
    fn there_are_never_more_than_an_ingress_takes() {
        let (mut state, now) = (State::default(), Instant::now());
        let old = (0..MAX_KEYS).map(|number| key(&format!("old-{number:02}"), "RS256")).collect();
        state.take(read(old), now);
        state.take(read(vec![key("new", "RS256")]), now + REFRESH_PERIOD);
        assert_eq!(kids(&state).len(), MAX_KEYS);
        assert!(kids(&state).contains(&"new".to_owned()));
        let large =
            |number: usize| Jwk { n: Some("n".repeat(MAX_KEY_VALUE)), ..key(&format!("large-{number:02}"), "RS256") };
        state.take(read((0..MAX_KEYS).map(large).collect()), now + 2 * REFRESH_PERIOD);
        let text = serde_json::to_string(&state.known.trust).unwrap();
        assert!(text.len() <= MAX_KEYS_TEXT && kids(&state).len() > 20, "{} {}", text.len(), kids(&state).len());
    }
}
