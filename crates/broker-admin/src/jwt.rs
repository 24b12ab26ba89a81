//! NATS claims as JWTs: header `{"typ":"JWT","alg":"ed25519-nkey"}`, base64url without padding, signed by an nkey.
//!
//! No crate knows exports, imports, revocations and generic claims together, and the encoding is no more than this
//! file (docs/architecture.md, "Identity and accounts").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// What a claim says, before it is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// The nkey it is about (`sub`).
    pub subject: String,
    /// A readable name.
    pub name: String,
    /// The `nats` part: type, version and all else.
    pub nats: Value,
    /// When it ends.
    pub expires: Option<OffsetDateTime>,
}

impl Claims {
    /// The signed JWT.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, issuer: &KeyPair, now: OffsetDateTime) -> Result<String, nkeys::error::Error> {
        let mut claims = json!({
            "iat": now.unix_timestamp(),
            "iss": issuer.public_key(),
            "sub": self.subject,
            "name": self.name,
            "nats": self.nats,
        });
        if let Some(expires) = self.expires {
            claims["exp"] = json!(expires.unix_timestamp());
        }
        // The claim's own id: a digest of it, as the Go library makes it.
        claims["jti"] = json!(URL_SAFE_NO_PAD.encode(Sha256::digest(claims.to_string())));
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = issuer.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The same for claims that say the same ([`Self::same_as`]), whenever they are signed.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(json!([self.subject, self.name, without_tokens(&self.nats)]).to_string()).into()
    }

    /// Does that JWT say the same? Its id and its issue time do not count.
    pub fn same_as(&self, jwt: &str) -> bool {
        payload(jwt).is_some_and(|claims| {
            claims["sub"] == self.subject
                && claims["name"] == self.name
                && without_tokens(&claims["nats"]) == without_tokens(&self.nats)
        })
    }
}

/// The claims of a JWT, unverified: for what we wrote ourselves.
pub fn payload(jwt: &str) -> Option<Value> {
    let body = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&body).ok()
}

/// When a JWT was signed.
pub(crate) fn issue_time(jwt: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(payload(jwt)?["iat"].as_i64()?).ok()
}

/// Activation tokens carry times of their own; what they allow is the import's subject and account.
fn without_tokens(nats: &Value) -> Value {
    let mut nats = nats.clone();
    if let Some(imports) = nats["imports"].as_array_mut() {
        for import in imports {
            if let Some(import) = import.as_object_mut() {
                import.remove("token");
            }
        }
    }
    nats
}
