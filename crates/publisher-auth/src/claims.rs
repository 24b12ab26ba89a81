//! What a token says, and which of it is acceptable. Pure.

use serde::Deserialize;

use crate::publisher::Publisher;
use crate::token::TokenError;

/// How far the clock of whoever issued a token may be ahead of ours, or behind it.
pub const LEEWAY_SECONDS: u64 = 30;
/// The longest time from a token's issue to its end. A kubelet's tokens have 1 h, and may be a little longer. One that is
/// good for longer is too dear to lose: nothing but its end takes it back.
pub const MAX_LIFETIME_SECONDS: u64 = 70 * 60;
/// Maximum number of audiences of a token.
const MAX_AUDIENCES: usize = 16;
/// What the subject of a ServiceAccount begins with.
const SUBJECT_PREFIX: &str = "system:serviceaccount:";
/// The longest namespace (RFC 1123, section 2.1).
const MAX_NAMESPACE: usize = 63;
/// The longest name of a ServiceAccount: that of a DNS name.
const MAX_NAME: usize = 253;

/// The claims of a token that matter here. Times are in seconds since 1970.
#[derive(Debug, Deserialize)]
pub struct Claims {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: u64,
    iat: u64,
    #[serde(default)]
    nbf: Option<u64>,
}

/// One, or several (RFC 7519, section 4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// What is left of claims that are acceptable.
#[derive(Debug)]
pub struct AcceptedClaims {
    /// Whose token it is.
    pub publisher: Publisher,
    /// For whom it is.
    pub audiences: Vec<String>,
    /// When it ends.
    pub expires: u64,
}

impl Claims {
    /// Checks all but the audience, which depends on the topic.
    ///
    /// # Errors
    /// It is not a token of a ServiceAccount of this issuer that is valid now.
    pub fn accept(self, issuer: &str, now: u64) -> Result<AcceptedClaims, TokenError> {
        if self.iss != issuer {
            return Err(TokenError::Issuer);
        }
        let audiences = match self.aud {
            Audiences::One(audience) => vec![audience],
            Audiences::Several(audiences) => audiences,
        };
        if audiences.len() > MAX_AUDIENCES {
            return Err(TokenError::Malformed);
        }
        check_times(self.iat, self.nbf, self.exp, now)?;
        let (namespace, name) = service_account(&self.sub).ok_or(TokenError::Subject)?;
        Ok(AcceptedClaims { publisher: Publisher::service_account(namespace, name), audiences, expires: self.exp })
    }
}

fn check_times(issued: u64, not_before: Option<u64>, expires: u64, now: u64) -> Result<(), TokenError> {
    if expires.saturating_sub(issued) > MAX_LIFETIME_SECONDS {
        return Err(TokenError::TooLongLived);
    }
    if is_over(expires, now) {
        return Err(TokenError::Expired);
    }
    if issued.max(not_before.unwrap_or(0)) > now.saturating_add(LEEWAY_SECONDS) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

/// Whether a token that ends at this time has ended.
pub fn is_over(expires: u64, now: u64) -> bool {
    expires.saturating_add(LEEWAY_SECONDS) <= now
}

/// The namespace and the name of a ServiceAccount.
fn service_account(subject: &str) -> Option<(&str, &str)> {
    let (namespace, name) = subject.strip_prefix(SUBJECT_PREFIX)?.split_once(':')?;
    let is_name = |text: &str, longest| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        (1..=longest).contains(&text.len()) && text.bytes().all(is_plain)
    };
    (is_name(namespace, MAX_NAMESPACE) && is_name(name, MAX_NAME)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn accept(change: Value) -> Result<AcceptedClaims, TokenError> {
        let mut claims = json!({
            "iss": "https://cluster", "sub": "system:serviceaccount:web:checkout", "aud": ["a", "b"],
            "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 3590, "kubernetes.io": {"namespace": "web"}, "jti": "x",
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
            if value == "absent" {
                claims.as_object_mut().unwrap().remove(name);
            }
        }
        let claims: Claims = serde_json::from_value(claims).map_err(|_| TokenError::Malformed)?;
        claims.accept("https://cluster", NOW)
    }

    #[test]
    fn a_token_of_a_service_account_is_accepted() {
        let accepted = accept(json!({})).unwrap();
        assert_eq!(accepted.publisher, Publisher::service_account("web", "checkout"));
        assert_eq!((accepted.audiences, accepted.expires), (vec!["a".to_owned(), "b".to_owned()], NOW + 3590));
        assert_eq!(accept(json!({"aud": "one"})).unwrap().audiences, ["one"]);
        for good in [
            json!({"nbf": "absent"}),
            json!({"iat": NOW + LEEWAY_SECONDS, "nbf": NOW + LEEWAY_SECONDS}),
            json!({"exp": NOW - LEEWAY_SECONDS + 1}),
            json!({"exp": NOW - 10 + MAX_LIFETIME_SECONDS}),
            json!({"sub": format!("system:serviceaccount:{}:{}", "n".repeat(63), "a".repeat(253))}),
        ] {
            assert!(accept(good.clone()).is_ok(), "{good}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (change, expected) in [
            (json!({"iss": "https://other"}), TokenError::Issuer),
            (json!({"iss": "https://cluster/"}), TokenError::Issuer),
            (json!({"iss": "absent"}), TokenError::Malformed),
            (json!({"sub": "absent"}), TokenError::Malformed),
            (json!({"aud": "absent"}), TokenError::Malformed),
            (json!({"aud": 7}), TokenError::Malformed),
            (json!({"aud": vec!["a"; MAX_AUDIENCES + 1]}), TokenError::Malformed),
            (json!({"exp": "absent"}), TokenError::Malformed),
            (json!({"exp": -1}), TokenError::Malformed),
            (json!({"exp": 1e300}), TokenError::Malformed),
            (json!({"iat": "absent"}), TokenError::Malformed),
            (json!({"exp": NOW - LEEWAY_SECONDS}), TokenError::Expired),
            (json!({"exp": 0}), TokenError::Expired),
            (json!({"exp": NOW - 10 + MAX_LIFETIME_SECONDS + 1}), TokenError::TooLongLived),
            (json!({"exp": u64::MAX}), TokenError::TooLongLived),
            (json!({"iat": NOW + LEEWAY_SECONDS + 1}), TokenError::NotYetValid),
            (json!({"nbf": NOW + LEEWAY_SECONDS + 1}), TokenError::NotYetValid),
            (json!({"nbf": u64::MAX}), TokenError::NotYetValid),
            (json!({"sub": "admin"}), TokenError::Subject),
            (json!({"sub": "system:node:a"}), TokenError::Subject),
            (json!({"sub": "web:checkout"}), TokenError::Subject),
            (json!({"sub": "system:serviceaccount:web"}), TokenError::Subject),
            (json!({"sub": "system:serviceaccount::checkout"}), TokenError::Subject),
            (json!({"sub": "system:serviceaccount:web:"}), TokenError::Subject),
            (json!({"sub": "system:serviceaccount:web:a:b"}), TokenError::Subject),
            (json!({"sub": "system:serviceaccount:web:A"}), TokenError::Subject),
            (json!({"sub": format!("system:serviceaccount:{}:a", "n".repeat(64))}), TokenError::Subject),
            (json!({"sub": format!("system:serviceaccount:n:{}", "a".repeat(254))}), TokenError::Subject),
        ] {
            assert_eq!(accept(change.clone()).unwrap_err(), expected, "{change}");
        }
    }
}
